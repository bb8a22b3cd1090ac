"""Contrast between sentence vectors: one query against its own key and others, and the queue that others may wait in.

Knows vectors and hashes of texts; nothing of batches, encoders or ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.packing import Packed


class Candidates(NamedTuple):
    """Keys that a query is compared with beside its own."""

    key_KD: Tensor  # fp32
    text_K: Tensor  # int64 hash of each one's text
    there_K: Tensor | None = None  # bool; None: all of them


class Compared(NamedTuple):
    """What a comparison found for each query: of B samples, or of these in Q directions."""

    loss_BQ: Tensor  # fp32 nats, with gradient
    similarity_BQ: Tensor  # fp32, to its own key, not divided by the temperature
    found_BQ: Tensor  # bool: no other key is as similar as its own
    negatives_BQ: Tensor  # int64: the keys that it was compared with


def info_nce(
    query_BD: Tensor,
    key_BD: Tensor,
    text_B2: Tensor,
    candidates: Sequence[Candidates],
    temperature: float,
) -> Compared:
    """−log of the softmax of each query's own key among it and the candidates (van den Oord et al., 2018), in fp32.

    A candidate with the query's text or its key's is none: it would be a translation too. So a query's own key may be among
    them. text_B2: int64 hashes of both.
    """
    own_B = (query_BD * key_BD).sum(-1)
    scores, negatives_B = [own_B[:, None]], torch.zeros_like(text_B2[:, 0])
    for candidate in candidates:
        same_BK = (candidate.text_K[None, :, None] == text_B2[:, None, :]).any(-1)
        left_out_BK = same_BK if candidate.there_K is None else same_BK | ~candidate.there_K
        scores.append((query_BD @ candidate.key_KD.T).masked_fill(left_out_BK, float("-inf")))
        negatives_B = negatives_B + (~left_out_BK).sum(-1)
    scores_BK = torch.cat(scores, dim=1)
    own_is_first = torch.zeros_like(negatives_B)
    loss_B = F.cross_entropy(scores_BK / temperature, own_is_first, reduction="none")
    found_B = (scores_BK[:, 1:] < own_B[:, None]).all(-1)
    return Compared(loss_B, own_B, found_B, negatives_B)


def sentence_vectors(hidden_TD: Tensor, packed: Packed, pooling: str) -> Tensor:
    """A vector of each sequence [S, D]: that of its first token ("first"), or the mean of all its tokens' in fp32 ("mean")."""
    if pooling == "first":
        return hidden_TD[packed.bounds_S1[:-1].long()]
    # To check the bounds, which are right, the host would have to wait for the device.
    return torch.segment_reduce(hidden_TD.float(), "mean", offsets=packed.bounds_S1.long(), unsafe=True)


class SentenceQueue(nn.Module):
    """The last Q keys that were put in, and the hashes of their texts: a ring, whose place is how many there ever were."""

    keys_QD: Tensor
    text_Q: Tensor
    enqueued: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys_QD", torch.zeros(size, width))
        self.register_buffer("text_Q", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.int64))

    def enqueue(self, key_KD: Tensor, text_K: Tensor) -> None:
        """Put keys in, in their order; each takes the place of the oldest."""
        size = len(self.keys_QD)
        assert len(key_KD) <= size, f"{len(key_KD)} keys do not fit into a queue of {size}"
        place_K = (self.enqueued + torch.arange(len(key_KD), device=key_KD.device)) % size
        self.keys_QD[place_K] = key_KD
        self.text_Q[place_K] = text_K
        self.enqueued += len(key_KD)

    def candidates(self) -> Candidates:
        """All keys that are in it."""
        there_Q = torch.arange(len(self.text_Q), device=self.text_Q.device) < self.enqueued
        return Candidates(self.keys_QD, self.text_Q, there_Q)
