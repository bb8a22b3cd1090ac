"""Which tile a pair gets on the Triton path, from its two lengths alone, so that its links never depend on neighbours.

It knows lengths and launch sizes, nothing of kernels: every entry is checked by compiling it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_TILE = 16
LARGEST_FUSED_TILE = 128
LONGEST_SIDE = 512
PRODUCT_TILE = 64
"""Rows and columns of the tiles in which the streamed path computes similarities."""
STREAMED_ROWS = 16
"""Rows that the streamed path holds at a time, beside all columns."""

Group = tuple[Tensor, int, int]  # pair indices (int64, on the host), padded rows and columns


@dataclass(frozen=True)
class Tile:
    """A launch: padded source and target lengths, hidden numbers per step of the product, warps and pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def options(self) -> dict[str, int]:
        """As the kernels and Triton name them."""
        sizes = {"BLOCK_M": self.rows, "BLOCK_N": self.columns, "BLOCK_K": self.depth}
        return sizes | {"num_warps": self.warps, "num_stages": self.stages}


def fused_tile(rows: int, columns: int, element_bytes: int) -> Tile:
    """The launch sizes of a padded shape: more warps as the plan grows, so that it stays in registers."""
    cells = rows * columns
    warps = 2 if cells <= 1024 else 4 if cells <= 4096 else 8 if cells <= 8192 else 16
    return Tile(rows, columns, depth=128 // element_bytes, warps=warps, stages=3)


def fused_groups(rows_B: Tensor, columns_B: Tensor) -> Iterator[Group]:
    """The pairs without an empty side that fit on chip, by padded shape. Lengths are int64 [B] on the host."""
    longer_B = torch.maximum(rows_B, columns_B)
    return _by_shape((longer_B <= LARGEST_FUSED_TILE) & (rows_B > 0) & (columns_B > 0), rows_B, columns_B)


def streamed_groups(rows_B: Tensor, columns_B: Tensor) -> Iterator[Group]:
    """The pairs with a side that no on-chip tile holds, likewise. Raises ValueError for a side beyond `LONGEST_SIDE`."""
    longer_B = torch.maximum(rows_B, columns_B)
    if len(longer_B) and longer_B.max() > LONGEST_SIDE:
        raise ValueError(
            f"align: pair {int(longer_B.argmax())} has a side of {int(longer_B.max())} tokens, the triton backend takes "
            f"{LONGEST_SIDE}; cut it, or use backend='torch'"
        )
    return _by_shape((longer_B > LARGEST_FUSED_TILE) & (rows_B > 0) & (columns_B > 0), rows_B, columns_B)


def _by_shape(chosen_B: Tensor, rows_B: Tensor, columns_B: Tensor) -> Iterator[Group]:
    chosen_B = torch.nonzero(chosen_B).flatten()
    shape_B2 = torch.stack([_padded(rows_B[chosen_B]), _padded(columns_B[chosen_B])], dim=1)
    for shape_2 in torch.unique(shape_B2, dim=0):
        rows, columns = shape_2.tolist()
        yield chosen_B[(shape_B2 == shape_2).all(dim=1)], rows, columns


def _padded(length_B: Tensor) -> Tensor:
    """The least power of two, `SMALLEST_TILE` or more, that holds each length."""
    sizes_S = SMALLEST_TILE << torch.arange(6)
    return sizes_S[torch.searchsorted(sizes_S, length_B)]
