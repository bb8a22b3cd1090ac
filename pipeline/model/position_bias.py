"""Gated relative position bias of XLM-E (Chi et al., ACL 2022), in the form that its authors' group released with WavLM.

A key's distance from a query adds d to their score, a number of the head and of the distance's bucket (T5: Raffel et al., JMLR
2020); the query makes it larger or smaller by two gates. Knows projected queries and distances; nothing of layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.data.packing import AttentionGroup
from pipeline.settings.sizes import DISTANCE_BUCKETS as BUCKETS

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

FARTHEST = 128
"""The distance from which on all have one bucket: T5's, and WavLM's default."""


@dataclass
class PositionBias:
    """What is added to scaled scores, in two factors."""

    distance_HO: Tensor  # d of keys at distances −(O // 2) … O // 2 after their query
    gate_TH: Tensor  # factor of each query
    blocks: BlockMask | None = None
    """Of `flexible_attention`, which then takes it; None: it is added to the scores of groups."""

    def of_group(self, group: AttentionGroup) -> Tensor:
        """[G, H, L, L], query by key; minus infinity where a key is padding."""
        size, length = group.index_GL.shape
        place_L = torch.arange(length, device=self.gate_TH.device)
        bias_HLL = self.distance_HO[:, place_L - place_L[:, None] + self.distance_HO.shape[1] // 2]
        gate_GLH = self.gate_TH.index_select(0, group.index_GL.flatten()).view(size, length, -1)
        bias_GHLL = gate_GLH.transpose(1, 2)[..., None] * bias_HLL
        return bias_GHLL if group.mask_G11L is None else bias_GHLL.masked_fill(~group.mask_G11L, float("-inf"))


@dataclass
class Relative:
    """What all layers' biases of a batch share."""

    distance_HO: Tensor
    blocks: BlockMask | None

    def gated(self, gate_TH: Tensor) -> PositionBias:
        """The bias of a layer."""
        return PositionBias(self.distance_HO, gate_TH, self.blocks)


class Distances(nn.Module):
    """d by bucket and head: one table for all layers."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(BUCKETS, heads)

    def forward(self, longest: int) -> Tensor:
        """d of all distances within a sequence of so many tokens, [H, 2 · longest − 1]; see `PositionBias`."""
        offset_O = torch.arange(1 - longest, longest, device=self.table.weight.device)
        distance_OH: Tensor = self.table(bucket(offset_O))
        return distance_OH.T


class Gate(nn.Module):
    """1 + g_u + (1 − g_u) · w · g_r: both gates of the query, by vectors that the layer's heads share, and w of the head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.gates = nn.Linear(width // heads, 2)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, query_TD: Tensor) -> Tensor:
        """[T, H]."""
        update_TH, reset_TH = torch.sigmoid(self.gates(query_TD.unflatten(1, (self.heads, -1)))).unbind(-1)
        return 1 + update_TH + (1 - update_TH) * self.scale * reset_TH


def bucket(offset_O: Tensor) -> Tensor:
    """T5's buckets of signed distances, int64: near ones one each, farther ones by their logarithm, keys that follow apart."""
    half = BUCKETS // 2
    near = half // 2
    distance_O = offset_O.abs()
    far_O = near + (distance_O.clamp(min=1).float() / near).log() / math.log(FARTHEST / near) * (half - near)
    within_O = torch.where(distance_O < near, distance_O, far_O.long().clamp(max=half - 1))
    return within_O + half * (offset_O > 0)
