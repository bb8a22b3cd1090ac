"""Sequences of unequal length as one flat run of tokens, without padding; attention stays inside each sequence.

Knows nothing of languages, pairs or masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

FIRST_POSITION = 2  # XLM-R counts positions from pad_id + 1


@dataclass
class AttentionGroup:
    """Sequences of similar length that are padded together inside attention only."""

    index_GL: Tensor  # int64 index into T; padding repeats the sequence's first token
    mask_G11L: Tensor | None  # bool, True where a key is real; None when nothing is padded
    place_T: Tensor  # int64: where each of the group's tokens lies in its flattened [G * L] layout
    token_T: Tensor  # int64: those tokens' indices into T

    def map(self, change: Callable[[Tensor], Tensor]) -> AttentionGroup:
        mask_G11L = None if self.mask_G11L is None else change(self.mask_G11L)
        return AttentionGroup(change(self.index_GL), mask_G11L, change(self.place_T), change(self.token_T))

    def shifted(self, tokens: int) -> AttentionGroup:
        """The same group in a batch where `tokens` others come first."""
        return replace(self, index_GL=self.index_GL + tokens, token_T=self.token_T + tokens)


@dataclass
class Packed:
    """A packed batch of S sequences with T tokens in all."""

    ids_T: Tensor  # int64
    positions_T: Tensor  # int64, from FIRST_POSITION on in every sequence
    offsets_S1: np.ndarray  # int64 on the host: sequence s is tokens offsets[s]:offsets[s + 1]
    bounds_S1: Tensor  # int32: the same, beside the tokens
    groups: list[AttentionGroup]

    @property
    def tokens(self) -> int:
        return int(self.offsets_S1[-1])

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(np.diff(self.offsets_S1).max())

    def with_ids(self, ids_T: Tensor) -> Packed:
        """The same layout over other token ids (a masked and an unmasked batch share everything else)."""
        return replace(self, ids_T=ids_T)

    def map(self, change: Callable[[Tensor], Tensor]) -> Packed:
        """The same batch with every tensor changed."""
        return replace(
            self,
            ids_T=change(self.ids_T),
            positions_T=change(self.positions_T),
            bounds_S1=change(self.bounds_S1),
            groups=[group.map(change) for group in self.groups],
        )

    def to(self, device: torch.device) -> Packed:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def pack(sequences: Sequence[np.ndarray | list[int]]) -> Packed:
    """Pack token id sequences (none empty) into one flat batch on the CPU."""
    lengths_S = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    ids_T = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    return pack_flat(ids_T, lengths_S)


def pack_flat(ids_T: np.ndarray, lengths_S: np.ndarray) -> Packed:
    """Pack sequences that already lie one after the other."""
    assert len(lengths_S) and (lengths_S > 0).all(), "an empty sequence cannot be packed"
    offsets_S1 = np.concatenate([[0], np.cumsum(lengths_S)])
    positions_T = np.arange(offsets_S1[-1]) - np.repeat(offsets_S1[:-1], lengths_S) + FIRST_POSITION
    groups = [_attention_group(members, offsets_S1, lengths_S) for members in _similar_lengths(lengths_S)]
    bounds_S1 = torch.from_numpy(offsets_S1.astype(np.int32))
    return Packed(torch.from_numpy(ids_T), torch.from_numpy(positions_T), offsets_S1, bounds_S1, groups)


def join(parts: Sequence[Packed]) -> Packed:
    """Packed batches one after the other as one, on their device; attention groups stay as they are."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(part.tokens for part in parts)])[:-1].tolist()
    placed = list(zip(parts, starts, strict=True))
    return Packed(
        torch.cat([part.ids_T for part in parts]),
        torch.cat([part.positions_T for part in parts]),
        np.concatenate([[0], *(part.offsets_S1[1:] + start for part, start in placed)]),
        torch.cat([parts[0].bounds_S1[:1], *(part.bounds_S1[1:] + start for part, start in placed)]),
        [group.shifted(start) for part, start in placed for group in part.groups],
    )


def _similar_lengths(lengths_S: np.ndarray) -> list[np.ndarray]:
    """Cut the sequences, sorted by length, so that no group pads a member by more than about a quarter."""
    order = np.argsort(lengths_S, kind="stable")
    sorted_S = lengths_S[order]
    groups, start = [], 0
    while start < len(order):
        # The constant keeps short sequences together: a group costs a few kernel calls whatever its size.
        end = int(np.searchsorted(sorted_S, 1.25 * sorted_S[start] + 8, side="right"))
        groups.append(order[start:end])
        start = end
    return groups


def _attention_group(members_G: np.ndarray, offsets_S1: np.ndarray, lengths_S: np.ndarray) -> AttentionGroup:
    lengths_G = lengths_S[members_G]
    length = int(lengths_G.max())
    column_L = np.arange(length)
    real_GL = column_L[None, :] < lengths_G[:, None]
    index_GL = offsets_S1[members_G][:, None] + np.where(real_GL, column_L[None, :], 0)
    mask = None if real_GL.all() else torch.from_numpy(real_GL[:, None, None, :])
    place_T = np.flatnonzero(real_GL)
    token_T = index_GL.reshape(-1)[place_T]
    return AttentionGroup(torch.from_numpy(index_GL), mask, torch.from_numpy(place_T), torch.from_numpy(token_T))
