"""Sequences of unequal length as one flat run of tokens, without padding; attention stays inside each sequence.

Knows nothing of languages, pairs or masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data.assembly import FIRST_POSITION


@dataclass
class AttentionGroup:
    """Sequences of similar length that are padded together inside attention only."""

    index_GL: Tensor  # int64 index into T; padding repeats the sequence's first token
    mask_G11L: Tensor | None  # bool, True where a key is real; None when nothing is padded

    def map(self, change: Callable[[Tensor], Tensor]) -> AttentionGroup:
        return AttentionGroup(change(self.index_GL), None if self.mask_G11L is None else change(self.mask_G11L))

    def shifted(self, tokens: int) -> AttentionGroup:
        """The same group in a batch where `tokens` others come first."""
        return replace(self, index_GL=self.index_GL + tokens)


class LaidOut(NamedTuple):
    """Sequences of similar length padded together, the groups' [G * L] layouts one after the other."""

    groups: list[AttentionGroup]
    place_T: Tensor  # int64: where each token lies in them

    def to(self, device: torch.device) -> LaidOut:
        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return LaidOut([group.map(moved) for group in self.groups], moved(self.place_T))


class Layout:
    """How a batch is padded, on the device that asks: on a GPU hardly any attention does, so that nothing is copied there."""

    def __init__(self, make: Callable[[torch.device], LaidOut]) -> None:
        self._make = make
        self._on: dict[torch.device, LaidOut] = {}

    def on(self, device: torch.device) -> LaidOut:
        if device not in self._on:
            self._on[device] = self._make(device)
        return self._on[device]


@dataclass
class Packed:
    """A packed batch of S sequences with T tokens in all."""

    ids_T: Tensor  # int64
    positions_T: Tensor  # int64, from FIRST_POSITION on in every sequence
    offsets_S1: np.ndarray  # int64 on the host: sequence s is tokens offsets[s]:offsets[s + 1]
    bounds_S1: Tensor  # int32: the same, beside the tokens
    layout: Layout  # shared by all batches that differ in ids alone
    types_T: Tensor | None = None  # int64: token types, where a model has more than one

    @property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 [S]."""
        return np.diff(self.offsets_S1)

    @property
    def tokens(self) -> int:
        return int(self.offsets_S1[-1])

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(np.diff(self.offsets_S1).max())

    @property
    def groups(self) -> list[AttentionGroup]:
        return self.layout.on(self.ids_T.device).groups

    @property
    def place_T(self) -> Tensor:  # noqa: N802
        """Where each token lies in the groups' layouts, int64."""
        return self.layout.on(self.ids_T.device).place_T

    @property
    def laid_out(self) -> int:
        """Tokens of the groups' layouts, padding included."""
        return sum(group.index_GL.numel() for group in self.groups)

    def with_ids(self, ids_T: Tensor) -> Packed:
        """The same layout over other token ids (a masked and an unmasked batch share everything else)."""
        return replace(self, ids_T=ids_T)

    def map(self, change: Callable[[Tensor], Tensor]) -> Packed:
        """The same batch with every tensor changed but the layout's, which follow by themselves."""
        return replace(
            self,
            ids_T=change(self.ids_T),
            positions_T=change(self.positions_T),
            bounds_S1=change(self.bounds_S1),
            types_T=None if self.types_T is None else change(self.types_T),
        )

    def to(self, device: torch.device) -> Packed:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def pack(sequences: Sequence[np.ndarray | list[int]], types: Sequence[list[int]] = ()) -> Packed:
    """Pack token id sequences (none empty) into one flat batch on the CPU.

    types: token types of every sequence; none, or empty ones: the model has one type.
    """
    lengths_S = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    ids_T = np.concatenate([np.asarray(sequence, dtype=np.int64) for sequence in sequences])
    packed = pack_flat(ids_T, lengths_S)
    types_T = [of_token for of_sequence in types for of_token in of_sequence]
    return replace(packed, types_T=torch.tensor(types_T)) if types_T else packed


def pack_flat(ids_T: np.ndarray, lengths_S: np.ndarray) -> Packed:
    """Pack sequences that already lie one after the other."""
    assert len(lengths_S) and (lengths_S > 0).all(), "an empty sequence cannot be packed"
    offsets_S1 = np.concatenate([[0], np.cumsum(lengths_S)])
    within_T = np.arange(offsets_S1[-1]) - np.repeat(offsets_S1[:-1], lengths_S)
    groups, first_S, laid_out = [], np.empty_like(lengths_S), 0
    for members_G in _similar_lengths(lengths_S):
        groups.append(_attention_group(members_G, offsets_S1, lengths_S))
        size, length = groups[-1].index_GL.shape
        first_S[members_G] = laid_out + length * np.arange(size)
        laid_out += size * length
    laid_out_there = LaidOut(groups, torch.from_numpy(within_T + np.repeat(first_S, lengths_S)))
    return Packed(
        torch.from_numpy(ids_T),
        torch.from_numpy(within_T + FIRST_POSITION),
        offsets_S1,
        torch.from_numpy(offsets_S1.astype(np.int32)),
        Layout(laid_out_there.to),
    )


def join(parts: Sequence[Packed]) -> Packed:
    """Packed batches one after the other as one, on their device; attention groups stay as they are."""
    if len(parts) == 1:
        return parts[0]
    assert all(part.types_T is None for part in parts), "what is trained has one token type"
    starts = np.cumsum([0, *(part.tokens for part in parts)])[:-1].tolist()
    placed = list(zip(parts, starts, strict=True))

    def one_after_another(device: torch.device) -> LaidOut:
        of_parts = [part.layout.on(device) for part in parts]
        sizes = [sum(group.index_GL.numel() for group in groups) for groups, _ in of_parts]
        begins = np.cumsum([0, *sizes])[:-1].tolist()
        return LaidOut(
            [group.shifted(start) for (groups, _), start in zip(of_parts, starts, strict=True) for group in groups],
            torch.cat([place_T + begin for (_, place_T), begin in zip(of_parts, begins, strict=True)]),
        )

    return Packed(
        torch.cat([part.ids_T for part in parts]),
        torch.cat([part.positions_T for part in parts]),
        np.concatenate([[0], *(part.offsets_S1[1:] + start for part, start in placed)]),
        torch.cat([parts[0].bounds_S1, *(part.bounds_S1[1:] + start for part, start in placed[1:])]),
        Layout(one_after_another),
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
    return AttentionGroup(torch.from_numpy(index_GL), mask)
