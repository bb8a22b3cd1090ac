"""Which tile a pair gets on the Triton path, from its two lengths alone, so that its links never depend on neighbours.

It knows lengths and launch sizes, nothing of kernels: `kernels/compiled.json` records what every entry compiles to.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sinkhorn_align.spans import Spans

SHORT_TILE = 16
"""The tile, within the launch of the smallest of `FUSED_TILES`, of pairs that fit it."""
FUSED_TILES = (32, 64, 128)
LONGEST_SIDE = 512
PRODUCT_TILE = 64
"""Rows and columns of the tiles in which the streamed path computes similarities."""
LARGEST_SCRATCH = 1 << 26
"""Numbers (fp32) of similarity scratch in one launch, 256 MB: what keeps 256 of the longest pairs in flight, more than an
H100 has multiprocessors. A scratch no larger than its second-level cache would leave most of them idle."""
REGISTERS = {(8, 32, 32, 1): 200, (9, 32, 32, 1): 128, (10, 32, 32, 2): 200}
"""The most registers a thread may have, by major capability, rows, columns and warps:
where the compiler's own choice spills some, or fewer spill nothing and let more programs run on a multiprocessor."""
LARGEST_KEY = 2 * LONGEST_SIDE
"""Tokens of the longest pair: what lies between the sorting keys of pairs of one tile and of the next."""
STREAMED_CELLS = 4096
"""Numbers of the plan that a program of the streamed path holds at a time."""


@dataclass(frozen=True)
class Tile:
    """A launch: padded source and target lengths, hidden numbers per step of the product, warps, pipeline stages, the tile of
    its shortest pairs (0 for none) and, where the compiler is not to choose, the most registers a thread."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    short: int = 0
    registers: int | None = None

    def options(self) -> dict[str, int]:
        """As the kernels and Triton name them."""
        sizes = {"BLOCK_M": self.rows, "BLOCK_N": self.columns, "BLOCK_K": self.depth, "SHORT_BLOCK": self.short}
        limit = {} if self.registers is None else {"maxnreg": self.registers}
        return sizes | {"num_warps": self.warps, "num_stages": self.stages} | limit


def capability_of(device: torch.device) -> int:
    """90 for sm_90; the interpreter's is that of the oldest GPU that the kernels are compiled for."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def fused_tile(rows: int, columns: int, element_bytes: int, capability: int, cosine: bool = False) -> Tile:
    """The launch sizes of a padded shape: as few warps as hold the plan in registers, since every warp does what is to be
    done for each row or column.

    fp32 and cosines need more registers beside it. A step of the product reads 128 bytes of every token, one cache line.
    """
    cells = rows * columns
    warps = 1 if cells <= 1024 else 2 if cells <= 4096 else 4 if cells <= 8192 else 16
    if cosine or element_bytes == 4:
        warps = min(2 * warps, 16)
    if _has_tcgen05(capability) and rows >= 64 and warps in (4, 8):
        warps = 16
    short = SHORT_TILE if rows == columns == FUSED_TILES[0] else 0
    registers = REGISTERS.get((capability // 10, rows, columns, warps))
    return Tile(rows, columns, 128 // element_bytes, warps, stages=3, short=short, registers=registers)


def streamed_options(element_bytes: int, capability: int) -> dict[str, int]:
    """The launch sizes of the streamed path. 168 registers a thread are as many as it can use, so that none spills."""
    sizes = {"TILE": PRODUCT_TILE, "BLOCK_K": 128 // element_bytes}
    sizes |= {"BLOCK_CELLS": STREAMED_CELLS, "LONGEST": LONGEST_SIDE, "num_stages": 3}
    return sizes | ({"num_warps": 16} if _has_tcgen05(capability) else {"num_warps": 8, "maxnreg": 168})


def _has_tcgen05(capability: int) -> bool:
    """Whether 4 or 8 warps take a product of 64 rows or more by tcgen05: Triton 3.7 fails to compile a reduction over that."""
    return 100 <= capability < 120


@dataclass(frozen=True)
class Launch:
    """Pairs of one padded shape: the columns `first` to `first + pairs` of a plan."""

    first: int
    pairs: int
    rows: int
    columns: int

    @property
    def fused(self) -> bool:
        """Whether one program holds a whole pair."""
        return max(self.rows, self.columns) <= FUSED_TILES[-1]


@dataclass(frozen=True)
class Plan:
    """The launches of a batch, longest pairs first, and the pairs in their order: int32 [5, pairs without an empty side] on the
    device of the hidden states: pair index, source start and length, target start and length."""

    vectors_5B: Tensor
    launches: tuple[Launch, ...]
    pairs: int
    """Pairs of the batch, those with an empty side included."""

    @classmethod
    def of(cls, spans: Spans, device: torch.device) -> "Plan":
        """Made on the host by one sort, without waiting for the device. Raises ValueError for a side beyond `LONGEST_SIDE`."""
        vectors = [vector_B.numpy() for vector_B in spans]
        _, rows_B, _, columns_B = vectors
        longer_B = np.maximum(rows_B, columns_B)
        if spans.pairs and longer_B.max() > LONGEST_SIDE:
            raise ValueError(
                f"align: pair {int(longer_B.argmax())} has a side of {int(longer_B.max())} tokens, the triton backend "
                f"takes {LONGEST_SIDE}; cut it, or use backend='torch'"
            )
        # By tile, then by tokens, the most first: what takes longest begins first.
        key_B = (rows_B + columns_B).astype(np.int16)
        for side in FUSED_TILES:
            key_B += (longer_B > side) * LARGEST_KEY
        key_B[np.minimum(rows_B, columns_B) == 0] = 0
        order_B = np.argsort(-key_B, kind="stable")  # by radix: the keys are 16 bits wide
        ends = np.searchsorted(-key_B[order_B], [-3 * LARGEST_KEY, -2 * LARGEST_KEY, -LARGEST_KEY, 0])
        planned = int(ends[-1])
        vectors_5B = torch.empty((5, planned), dtype=torch.int32, pin_memory=device.type == "cuda")
        on_host_5B = vectors_5B.numpy()
        for row, vector_B in zip(on_host_5B[1:], vectors, strict=True):
            row[:] = vector_B[order_B[:planned]]
        on_host_5B[0] = order_B[:planned]
        launches = tuple(_launches(on_host_5B, ends.tolist()))
        return cls(vectors_5B.to(device, non_blocking=True), launches, spans.pairs)


def _launches(vectors_5B: np.ndarray, ends: list[int]) -> Iterator[Launch]:
    """One launch a tile, of streamed pairs as many as their scratch asks for. `ends`: those of the pairs of a tile, the largest
    tile first."""
    streamed = ends[0]
    if streamed:
        rows, columns = (int(length_B[:streamed].max()) for length_B in vectors_5B[[2, 4]])
        most = max(1, LARGEST_SCRATCH // (rows * columns))
        for first in range(0, streamed, most):
            yield Launch(first, min(most, streamed - first), rows, columns)
    for side, (first, end) in zip(reversed(FUSED_TILES), pairwise(ends), strict=True):
        if first < end:
            yield Launch(first, end - first, side, side)
