"""Which tile a pair gets on the Triton path, from its two lengths alone, so that its links never depend on neighbours.

It knows lengths and launch sizes, nothing of kernels: the tables are checked by compiling every entry.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_TILE = 16
LARGEST_FUSED_TILE = 128
LONGEST_SIDE = 512


@dataclass(frozen=True)
class Tile:
    """A launch: padded source and target lengths, hidden numbers per step of the product, warps and pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def tile_of(rows: int, columns: int, element_bytes: int) -> Tile:
    """The launch sizes of a padded shape: more warps as the plan grows, so that it stays in registers."""
    cells = rows * columns
    warps = 2 if cells <= 1024 else 4 if cells <= 4096 else 8 if cells <= 8192 else 16
    depth = 128 // element_bytes
    return Tile(rows, columns, depth, warps, stages=3)


def padded_side(length_B: Tensor) -> Tensor:
    """The least power of two, 16 or more, that holds each length (int64 [B])."""
    sizes_S = torch.tensor([SMALLEST_TILE << power for power in range(6)])
    return sizes_S[torch.searchsorted(sizes_S, length_B)]


def fused_groups(rows_B: Tensor, columns_B: Tensor) -> Iterator[tuple[Tensor, int, int]]:
    """Pairs without an empty side that fit on chip, by tile: (pair indices int64, padded rows, padded columns)."""
    fits_B = torch.maximum(rows_B, columns_B) <= LARGEST_FUSED_TILE
    filled_B = torch.nonzero((rows_B > 0) & (columns_B > 0) & fits_B).flatten()
    shape_B2 = torch.stack([padded_side(rows_B[filled_B]), padded_side(columns_B[filled_B])], dim=1)
    for shape in torch.unique(shape_B2, dim=0):
        yield filled_B[(shape_B2 == shape).all(dim=1)], *shape.tolist()


def streamed_pairs(rows_B: Tensor, columns_B: Tensor) -> Tensor:
    """Pairs with a side that no on-chip tile holds: int64 indices."""
    longer_B = torch.maximum(rows_B, columns_B) > LARGEST_FUSED_TILE
    return torch.nonzero((rows_B > 0) & (columns_B > 0) & longer_B).flatten()
