"""Attention with a relative position bias inside each sequence of a packed batch, by PyTorch's FlexAttention: nothing is kept
for pairs of tokens. On GPUs alone: PyTorch makes a kernel of the functions below at their first call.

Its module takes a second to import, which only those pay who train so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.data.packing import Packed
from pipeline.model import devices
from pipeline.model.position_bias import PositionBias

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Tokens of a block: only blocks of keys that a block of queries has a sequence in common with are looked at."""


def blocks_of(packed: Packed) -> BlockMask:
    """Which blocks of keys each block of queries looks at, and which pairs of tokens count there, where the batch is.

    PyTorch would find them by looking at all pairs of tokens. A block of queries has the keys from the beginning of its first
    token's sequence to the end of its last one's.
    """
    from torch.nn.attention.flex_attention import BlockMask

    tokens, bounds_S1 = packed.tokens, packed.bounds_S1.long()
    token_T = torch.arange(tokens, device=bounds_S1.device)
    sequence_T = torch.searchsorted(bounds_S1[1:], token_T, right=True)
    last_token_Q = (token_T[::BLOCK] + BLOCK - 1).clamp(max=tokens - 1)
    first_Q = bounds_S1[sequence_T[::BLOCK]] // BLOCK
    last_Q = (bounds_S1[sequence_T[last_token_Q] + 1] - 1) // BLOCK
    place_Q = torch.arange(len(first_Q), device=first_Q.device)

    def together(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sequence_T[query] == sequence_T[key]

    return BlockMask.from_kv_blocks(
        (last_Q - first_Q + 1).int()[None, None],
        ((first_Q[:, None] + place_Q) % len(place_Q)).int()[None, None],  # behind the last one of a row: never read
        BLOCK_SIZE=BLOCK,
        mask_mod=together,
        seq_lengths=(tokens, tokens),
    )


def attend_by_blocks(
    query_TD: Tensor, key_TD: Tensor, value_TD: Tensor, heads: int, bias: PositionBias, blocks: BlockMask
) -> Tensor:
    """What every token takes from the tokens of its own sequence, [T, D]. blocks: of `blocks_of` the batch."""
    distance_HO, gate_TH = bias.distance_HO, bias.gate_TH
    most = distance_HO.shape[1] - 1

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # Tokens of other sequences may be farther away than any distance; their scores do not count.
        place = torch.clamp(key - query + most // 2, 0, most)
        return score + gate_TH[query, head] * distance_HO[head, place]

    sides = (side_TD.unflatten(1, (heads, -1)).transpose(0, 1)[None] for side_TD in (query_TD, key_TD, value_TD))
    mixed_1HTD: Tensor = _attention(devices.on_gpu(query_TD))(*sides, score_mod=biased, block_mask=blocks)
    return mixed_1HTD[0].transpose(0, 1).flatten(1)


@cache
def _attention(compiled: bool) -> Callable[..., Any]:
    """compiled: otherwise all scores are in memory, which is how its results are checked on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    attention: Any = torch.compile(flex_attention, dynamic=True) if compiled else flex_attention
    return attention
