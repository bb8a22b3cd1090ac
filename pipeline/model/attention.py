"""Attention inside each sequence of a packed batch, by what is fastest on the device.

Knows projected tokens and where sequences lie; nothing of layers or weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.packing import Packed
from pipeline.model.position_bias import PositionBias

WIDEST_VARIABLE_HEAD = 256  # flash attention's
LONGEST_OF_PRODUCTS = {torch.bfloat16: 512, torch.float32: 96}
"""Tokens of a sequence up to which two products were faster than PyTorch's fused attention, heads 32 or 64 wide."""
SAFE_SUM = 1e20
"""Of exponentials, in fp32 or bf16, whose largest number is 3e38: room is left for the values."""


def attend(
    query_TD: Tensor,
    key_TD: Tensor,
    value_TD: Tensor,
    packed: Packed,
    heads: int,
    dropout: float,
    bias: PositionBias | None = None,
) -> Tensor:
    """What every token takes from the tokens of its own sequence, [T, D]; `dropout` of the attention weights.

    bias: what is added to scores. It is in memory for all pairs of tokens of a sequence, on every device: PyTorch's attention
    over sequences of any lengths takes none.
    """
    if bias is None and takes_variable_lengths(
        query_TD.device.type, query_TD.dtype, query_TD.shape[1] // heads, dropout
    ):
        return _by_variable_lengths(query_TD, key_TD, value_TD, packed, heads)
    return _by_groups(query_TD, key_TD, value_TD, packed, heads, dropout, bias)


def takes_variable_lengths(device_type: str, dtype: torch.dtype, head_width: int, dropout: float) -> bool:
    """Whether PyTorch's own attention over sequences of any lengths, without padding, runs here."""
    is_half = dtype in (torch.float16, torch.bfloat16)
    fits = head_width <= WIDEST_VARIABLE_HEAD and head_width % 8 == 0
    return device_type == "cuda" and is_half and fits and dropout == 0 and varlen_attn() is not None


@cache
def varlen_attn() -> Callable[..., Any] | None:
    """PyTorch's attention over sequences of any lengths; importing it takes as long as PyTorch, and only GPUs use it."""
    try:
        from torch.nn.attention.varlen import varlen_attn as found
    except ImportError:  # PyTorch before 2.10
        return None
    return found


def takes_products(device_type: str, dtype: torch.dtype, length: int) -> bool:
    """Whether attention without gradient is taken as two batched products, its weights in memory between them."""
    return device_type == "cpu" and length <= LONGEST_OF_PRODUCTS.get(dtype, 0) and not torch.is_grad_enabled()


def _by_variable_lengths(query_TD: Tensor, key_TD: Tensor, value_TD: Tensor, packed: Packed, heads: int) -> Tensor:
    query_THD, key_THD, value_THD = (tensor.unflatten(1, (heads, -1)) for tensor in (query_TD, key_TD, value_TD))
    bounds_S1, longest = packed.bounds_S1, packed.longest
    attention = varlen_attn()
    assert attention is not None, "`takes_variable_lengths` has asked"
    mixed_THD = attention(query_THD, key_THD, value_THD, bounds_S1, bounds_S1, longest, longest)
    assert isinstance(mixed_THD, Tensor)
    return mixed_THD.flatten(1)


def _by_groups(
    query_TD: Tensor,
    key_TD: Tensor,
    value_TD: Tensor,
    packed: Packed,
    heads: int,
    dropout: float,
    bias: PositionBias | None,
) -> Tensor:
    """Sequences of like lengths padded to the longest of them: a dense product each."""
    mixed = []
    for group in packed.groups:
        size, length = group.index_GL.shape
        # [G, L, D] -> [G, H, L, D / H]
        query, key, value = (
            tensor.index_select(0, group.index_GL.flatten()).view(size, length, heads, -1).transpose(1, 2)
            for tensor in (query_TD, key_TD, value_TD)
        )
        if bias is None and takes_products(query.device.type, query.dtype, length):
            mixed_GHLD = _by_products(query, key, value, group.mask_G11L)
        else:
            mask = group.mask_G11L if bias is None else bias.of_group(group).to(query.dtype)
            mixed_GHLD = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        mixed.append(mixed_GHLD.transpose(1, 2).reshape(size * length, -1))
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).index_select(0, packed.place_T)


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask_G11L: Tensor | None) -> Tensor:
    """Attention [G, H, L, D / H] by two batched products, weights divided by their sum after the second.

    Softmax takes each row's largest score away first. That is its slowest part where rows are short, and it is needed
    only where exponentials leave the range of floating-point numbers, as sums tell.
    """
    size, heads, length, width = query.shape
    query, key, value = (tensor.reshape(size * heads, length, width) for tensor in (query, key, value))
    weight = _scores(query, key, mask_G11L, heads).exp_()
    total = weight.sum(dim=-1, keepdim=True)
    least, most = torch.aminmax(total)
    if least > 1 / SAFE_SUM and most < SAFE_SUM:
        mixed = torch.bmm(weight, value).mul_(total.reciprocal_())
    else:  # also where a score is not finite
        mixed = torch.bmm(_scores(query, key, mask_G11L, heads).softmax(dim=-1), value)
    return mixed.view(size, heads, length, width)


def _scores(query: Tensor, key: Tensor, mask_G11L: Tensor | None, heads: int) -> Tensor:
    """Scaled products of queries and keys [G * H, L, L]; minus infinity where a key is padding."""
    scale = query.shape[-1] ** -0.5
    if mask_G11L is None:
        return torch.bmm(query, key.transpose(1, 2)).mul_(scale)
    bias = query.new_zeros(mask_G11L.shape).masked_fill_(~mask_G11L, float("-inf"))
    bias = bias.expand(-1, heads, -1, -1).reshape(len(query), 1, -1)
    return torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
