"""Nearest sentences by cosine, exactly and in blocks, and the ratio margin over them (Artetxe & Schwenk, ACL 2019).

Knows vectors of length 1; nothing of where they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 4
"""k of the margin, as published and as XTREME takes it."""
QUERIES_AT_ONCE, KEYS_AT_ONCE = 4096, 8192
"""Sentences whose similarities are in memory at once: 128 MiB of fp32."""


@dataclass
class Neighbours:
    """The k most similar keys of every query, the most similar first."""

    similarity_Qk: Tensor  # fp32
    index_Qk: Tensor  # int64, into the keys

    @property
    def mean(self) -> Tensor:
        """How similar a query's neighbours are on average, fp64 [Q]."""
        return self.similarity_Qk.double().mean(dim=1)


def nearest(
    query_QD: Tensor,
    key_KD: Tensor,
    k: int = NEIGHBOURS,
    device: torch.device | str = "cpu",
    done: Callable[[int], None] = lambda queries: None,
) -> Neighbours:
    """The k keys (or all, where there are fewer) with the largest dot product with each query.

    Args:
        query_QD, key_KD: fp32 on the host, of length 1; 4·D bytes a sentence are all that stays in memory.
        device: where blocks of both are multiplied.
        done: is told how many queries have theirs.
    """
    similarities, indices = [], []
    for query_BD in query_QD.split(QUERIES_AT_ONCE):
        block_BD = query_BD.to(device)
        best_Bk = torch.empty(len(block_BD), 0, device=device)
        index_Bk = torch.empty(len(block_BD), 0, dtype=torch.long, device=device)
        for first in range(0, len(key_KD), KEYS_AT_ONCE):
            similarity_BK = block_BD @ key_KD[first : first + KEYS_AT_ONCE].to(device).T
            top = similarity_BK.topk(min(k, similarity_BK.shape[1]), dim=1)
            best_Bk = torch.cat([best_Bk, top.values], dim=1)
            index_Bk = torch.cat([index_Bk, top.indices + first], dim=1)
            best_Bk, order_Bk = best_Bk.topk(min(k, best_Bk.shape[1]), dim=1)
            index_Bk = index_Bk.gather(1, order_Bk)
        similarities.append(best_Bk.cpu())
        indices.append(index_Bk.cpu())
        done(sum(map(len, indices)))
    return Neighbours(torch.cat(similarities), torch.cat(indices))


def margins(of_queries: Neighbours, of_keys: Neighbours) -> Tensor:
    """The ratio margin of every query with each of its neighbours, fp64 [Q, k].

    cos(x, y) / ((mean of cos(x, ·) over x's neighbours + mean of cos(·, y) over y's neighbours) / 2). A sentence that is near
    to everything (a hub) is thereby no better a match than one that is near to its translation alone. The ratio means
    something where those averages are above 0, as they are for encoders of XLM-R's shape.
    """
    around_Qk = (of_queries.mean[:, None] + of_keys.mean[of_queries.index_Qk]) / 2
    return of_queries.similarity_Qk.double() / around_Qk


def best_by_margin(of_queries: Neighbours, of_keys: Neighbours) -> tuple[Tensor, Tensor]:
    """(the neighbour with the largest margin of every query, int64 [Q]; that margin, fp64 [Q])."""
    margin_Qk = margins(of_queries, of_keys)
    best_Q1 = margin_Qk.argmax(dim=1, keepdim=True)
    return of_queries.index_Qk.gather(1, best_Q1)[:, 0], margin_Qk.gather(1, best_Q1)[:, 0]
