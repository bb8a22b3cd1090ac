"""Groups pairs of like lengths, so that a batch of ragged pairs becomes a few dense blocks with little padding.

It knows lengths only. The padded shape of a pair follows from its own two lengths, never from its neighbours: a dense
product may round differently in another shape, and a pair's links must not depend on what else is in the batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

SMALLEST_PADDED_LENGTH = 8
LARGEST_BLOCK = 1 << 21
"""Numbers in the largest array of a block: beyond some 8 MB of fp32, blocks leave the cache and take more time a pair."""


def padded_lengths(length_B: Tensor) -> Tensor:
    """The least of 8, 12, 16, 24, 32, 48, … that holds each length (int64 [B]): a third of padding at most, from 8 up."""
    sizes = [SMALLEST_PADDED_LENGTH]
    longest = int(length_B.max()) if len(length_B) else 0
    while sizes[-1] < longest:
        power = 1 << (sizes[-1].bit_length() - 1)
        sizes.append(power * 3 // 2 if sizes[-1] == power else power * 2)
    sizes_S = torch.tensor(sizes)
    return sizes_S[torch.searchsorted(sizes_S, length_B)]


def blocks(source_length_B: Tensor, target_length_B: Tensor, width: int) -> Iterator[tuple[Tensor, int, int]]:
    """Cut the pairs without an empty side into blocks: (pair indices int64, padded source, padded target length).

    `width` is the hidden width, which bounds the pairs of a block. Lengths are int64 [B] on the CPU.
    """
    filled_B = torch.nonzero((source_length_B > 0) & (target_length_B > 0)).flatten()
    if len(filled_B) == 0:
        return
    shape_B2 = torch.stack([padded_lengths(source_length_B[filled_B]), padded_lengths(target_length_B[filled_B])], dim=1)
    shapes, shape_of_B = torch.unique(shape_B2, dim=0, return_inverse=True)
    for index, (rows, columns) in enumerate(shapes.tolist()):
        members_B = filled_B[shape_of_B == index]
        pairs = max(1, LARGEST_BLOCK // max(rows * columns, max(rows, columns) * width))
        for chunk_B in members_B.split(pairs):
            yield chunk_B, rows, columns
