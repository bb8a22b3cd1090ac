"""Groups pairs of like lengths, so that a batch of ragged pairs becomes a few dense blocks with little padding.

It knows lengths only. The padded shape of a pair follows from its own two lengths, never from its neighbours: a dense
product may round differently in another shape, and a pair's links must not depend on what else is in the batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

SMALLEST_PADDED_LENGTH = 16
LARGEST_BLOCK = 1 << 18
"""Numbers in the similarities of a block: 1 MB of fp32; larger blocks leave the cache and take more time a pair."""


def padded_lengths(length_B: Tensor) -> Tensor:
    """The least of 16, 24, 32, 48, 64, 96, … that holds each length (int64 [B])."""
    sizes = [SMALLEST_PADDED_LENGTH]
    longest = int(length_B.max()) if len(length_B) else 0
    while sizes[-1] < longest:
        power = 1 << (sizes[-1].bit_length() - 1)
        sizes.append(power * 3 // 2 if sizes[-1] == power else power * 2)
    sizes_S = torch.tensor(sizes)
    return sizes_S[torch.searchsorted(sizes_S, length_B)]


def blocks(source_length_B: Tensor, target_length_B: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Cut the pairs without an empty side into blocks: (pair indices int64 [pairs], padded length of both sides).

    Blocks are square, because translations have like lengths and fewer blocks save more than the padding costs. Lengths
    are int64 [B] on the CPU.
    """
    filled_B = torch.nonzero((source_length_B > 0) & (target_length_B > 0)).flatten()
    padded_B = padded_lengths(torch.maximum(source_length_B, target_length_B)[filled_B])
    for padded in torch.unique(padded_B).tolist():
        pairs = max(1, LARGEST_BLOCK // (padded * padded))
        for chunk_B in filled_B[padded_B == padded].split(pairs):
            yield chunk_B, padded
