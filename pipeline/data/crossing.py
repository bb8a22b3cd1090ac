"""Which sequence of one packed batch each sequence of another reads: where a decoder's attention looks in the encoder's output.

Knows two layouts of tokens; nothing of what is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.data.assembly import ragged_indices
from pipeline.data.packing import AttentionGroup, Packed


@dataclass
class Crossing:
    """R targets that each read one of S sources: all tokens of that source, and of no other."""

    owner_R: np.ndarray  # int64 on the host: the source of each target
    groups: list[
        AttentionGroup
    ]  # one for each of the targets' groups: the sources of its members, as indices into the sources' T
    index_U: (
        Tensor | None
    )  # int64 into the sources' T: those of every target one after the other; None: as they lie already
    bounds_R1: Tensor  # int32: where each target's source begins in them, and the last one ends
    longest: int  # tokens of the longest source that is read

    def map(self, change: Callable[[Tensor], Tensor]) -> Crossing:
        """The same with every tensor changed."""
        return replace(
            self,
            groups=[group.map(change) for group in self.groups],
            index_U=None if self.index_U is None else change(self.index_U),
            bounds_R1=change(self.bounds_R1),
        )


def cross(source: Packed, target: Packed, owner_R: np.ndarray) -> Crossing:
    """The crossing of two packed batches on the CPU. owner_R: int64, for each target sequence its source sequence."""
    assert len(owner_R) == len(target.sequence_lengths), "every target has a source"
    starts_S, lengths_S = source.offsets_S1[:-1], source.sequence_lengths
    lengths_R = lengths_S[owner_R]
    bounds_R1 = np.concatenate([[0], np.cumsum(lengths_R)])
    as_they_lie = np.array_equal(owner_R, np.arange(len(lengths_S)))
    return Crossing(
        owner_R,
        [_sources(group, target, starts_S[owner_R], lengths_R) for group in target.groups],
        None if as_they_lie else torch.from_numpy(ragged_indices(starts_S[owner_R], lengths_R)),
        torch.from_numpy(bounds_R1.astype(np.int32)),
        int(lengths_R.max()),
    )


def _sources(targets: AttentionGroup, target: Packed, start_R: np.ndarray, length_R: np.ndarray) -> AttentionGroup:
    """What the members of one of the targets' groups read, padded to the longest of it by repeating the first token."""
    member_G = np.searchsorted(target.offsets_S1, targets.index_GL[:, 0].numpy())
    column_L = np.arange(int(length_R[member_G].max()))
    real_GL = column_L < length_R[member_G][:, None]
    index_GL = start_R[member_G][:, None] + np.where(real_GL, column_L, 0)
    mask = None if real_GL.all() else torch.from_numpy(real_GL[:, None, None, :])
    return AttentionGroup(torch.from_numpy(index_GL), mask)
