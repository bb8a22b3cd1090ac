"""Which tile a pair gets on the Triton path, from its two lengths alone, so that its links never depend on neighbours.

It knows lengths and launch sizes, nothing of kernels: `kernels/compiled.json` records what every entry compiles to.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkhorn_align.spans import Spans

SMALLEST_TILE = 16
LARGEST_FUSED_TILE = 128
LONGEST_SIDE = 512
PRODUCT_TILE = 64
"""Rows and columns of the tiles in which the streamed path computes similarities."""
LARGEST_SCRATCH = 1 << 26
"""Numbers (fp32) of similarity scratch in one launch, 256 MB: what keeps 256 of the longest pairs in flight, more than an
H100 has multiprocessors. A scratch no larger than its second-level cache would leave most of them idle."""
REGISTERS = {
    (8, 2, 16, 32): 80,
    (8, 2, 64, 32): 136,
    (8, 2, 64, 64): 208,
    (8, 2, 128, 32): 208,
    (9, 4, 32, 128): 200,
    (10, 4, 64, 64): 80,
}
"""The most registers a thread may have, by major capability, bytes of an element, rows and columns, where ptxas left to
itself spills some to let one more program run on a multiprocessor. The least that spills nothing with either cost."""
STREAMED_REGISTERS = {32: 64, 64: 72, 128: 96}
"""The same for the second pass of the streamed path, by columns."""


@dataclass(frozen=True)
class Tile:
    """A launch: padded source and target lengths, hidden numbers per step of the product, warps, pipeline stages and, where
    the compiler is not to choose, the most registers a thread."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    registers: int | None = None

    def options(self) -> dict[str, int]:
        """As the kernels and Triton name them."""
        sizes = {"BLOCK_M": self.rows, "BLOCK_N": self.columns, "BLOCK_K": self.depth}
        return sizes | {"num_warps": self.warps, "num_stages": self.stages} | _limit(self.registers)


def _limit(registers: int | None) -> dict[str, int]:
    return {} if registers is None else {"maxnreg": registers}


def capability_of(device: torch.device) -> int:
    """90 for sm_90; the interpreter's is that of the oldest GPU that the kernels are compiled for."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def fused_tile(rows: int, columns: int, element_bytes: int, capability: int) -> Tile:
    """The launch sizes of a padded shape: more warps as the plan grows, so that it stays in registers.

    A step of the product reads 128 bytes of every token, one cache line.
    """
    cells = rows * columns
    warps = 2 if cells <= 1024 else 4 if cells <= 4096 else 8 if cells <= 8192 else 16
    if 100 <= capability < 120 and rows >= 64 and warps in (4, 8):
        # Triton 3.7 fails to compile a reduction over a tcgen05 product, which it takes for these warps and rows.
        warps = 2 if rows * columns <= 64 * 32 and rows < 128 else 16
    registers = REGISTERS.get((capability // 10, element_bytes, rows, columns))
    return Tile(rows, columns, depth=128 // element_bytes, warps=warps, stages=3, registers=registers)


def streamed_options(columns: int) -> dict[str, int]:
    """The launch sizes of the second pass of the streamed path: rows at a time beside all columns, and warps."""
    sizes = {"BLOCK_M": 8 if columns > 256 else 16, "BLOCK_N": columns, "num_warps": 8}
    return sizes | _limit(STREAMED_REGISTERS.get(columns))


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
        return max(self.rows, self.columns) <= LARGEST_FUSED_TILE


@dataclass(frozen=True)
class Plan:
    """The launches of a batch, and the pairs in their order: int32 [5, pairs without an empty side] on the device of the
    hidden states: pair index, source start and length, target start and length."""

    vectors_5B: Tensor
    launches: tuple[Launch, ...]
    pairs: int
    """Pairs of the batch, those with an empty side included."""

    @classmethod
    def of(cls, spans: Spans, device: torch.device) -> "Plan":
        """Made on the host, without waiting for the device. Raises ValueError for a side beyond `LONGEST_SIDE`."""
        longer_B = torch.maximum(spans.source_length_B, spans.target_length_B)
        if spans.pairs and longer_B.max() > LONGEST_SIDE:
            raise ValueError(
                f"align: pair {int(longer_B.argmax())} has a side of {int(longer_B.max())} tokens, the triton backend "
                f"takes {LONGEST_SIDE}; cut it, or use backend='torch'"
            )
        launches: list[Launch] = []
        order: list[Tensor] = []
        for pair_B, rows, columns in _groups(spans):
            most = (
                max(1, LARGEST_SCRATCH // (rows * columns)) if max(rows, columns) > LARGEST_FUSED_TILE else spans.pairs
            )
            for chunk_B in pair_B.split(most):
                launches.append(Launch(sum(map(len, order)), len(chunk_B), rows, columns))
                order.append(chunk_B)
        order_B = torch.cat(order) if order else torch.zeros(0, dtype=torch.int64)
        vectors_5B = torch.stack(
            [
                order_B,
                *(vector_B[order_B] for vector_B in spans),
            ]
        ).int()
        if device.type == "cuda":
            vectors_5B = vectors_5B.pin_memory()  # else the copy waits for the device
        return cls(vectors_5B.to(device, non_blocking=True), tuple(launches), spans.pairs)


def _groups(spans: Spans) -> Iterator[tuple[Tensor, int, int]]:
    """The pairs without an empty side by padded shape: indices (int64, on the host), rows, columns."""
    filled_B = torch.nonzero((spans.source_length_B > 0) & (spans.target_length_B > 0)).flatten()
    shape_B2 = torch.stack([_padded(spans.source_length_B[filled_B]), _padded(spans.target_length_B[filled_B])], dim=1)
    for shape_2 in torch.unique(shape_B2, dim=0):
        rows, columns = shape_2.tolist()
        yield filled_B[(shape_B2 == shape_2).all(dim=1)], rows, columns


def _padded(length_B: Tensor) -> Tensor:
    """The least power of two, `SMALLEST_TILE` or more, that holds each length."""
    sizes_S = SMALLEST_TILE << torch.arange(6)
    return sizes_S[torch.searchsorted(sizes_S, length_B)]
