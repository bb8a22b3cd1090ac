"""Attention inside each sequence of a packed batch, by what is fastest on the device.

Knows projected tokens and where sequences lie; nothing of layers or weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.packing import Packed

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # PyTorch before 2.10
    varlen_attn = None  # type: ignore[assignment]

WIDEST_VARIABLE_HEAD = 256  # flash attention's


def attend(query_TD: Tensor, key_TD: Tensor, value_TD: Tensor, packed: Packed, heads: int, dropout: float) -> Tensor:
    """What every token takes from the tokens of its own sequence, [T, D]; `dropout` of the attention weights."""
    if takes_variable_lengths(query_TD.device.type, query_TD.dtype, query_TD.shape[1] // heads, dropout):
        return _by_variable_lengths(query_TD, key_TD, value_TD, packed, heads)
    return _by_groups(query_TD, key_TD, value_TD, packed, heads, dropout)


def takes_variable_lengths(device_type: str, dtype: torch.dtype, head_width: int, dropout: float) -> bool:
    """Whether PyTorch's own attention over sequences of any lengths, without padding, runs here."""
    is_half = dtype in (torch.float16, torch.bfloat16)
    fits = head_width <= WIDEST_VARIABLE_HEAD and head_width % 8 == 0
    return varlen_attn is not None and device_type == "cuda" and is_half and fits and dropout == 0


def takes_products(device_type: str, dtype: torch.dtype) -> bool:
    """Whether attention without gradient is taken as two batched products, its weights rounded to bf16 between them."""
    return device_type == "cpu" and dtype == torch.bfloat16 and not torch.is_grad_enabled()


def _by_variable_lengths(query_TD: Tensor, key_TD: Tensor, value_TD: Tensor, packed: Packed, heads: int) -> Tensor:
    query_THD, key_THD, value_THD = (tensor.unflatten(1, (heads, -1)) for tensor in (query_TD, key_TD, value_TD))
    bounds_S1, longest = packed.bounds_S1, packed.longest
    mixed_THD = varlen_attn(query_THD, key_THD, value_THD, bounds_S1, bounds_S1, longest, longest)
    assert isinstance(mixed_THD, Tensor)
    return mixed_THD.flatten(1)


def _by_groups(
    query_TD: Tensor, key_TD: Tensor, value_TD: Tensor, packed: Packed, heads: int, dropout: float
) -> Tensor:
    """Sequences of like lengths padded to the longest of them: a dense product each."""
    out_TD = torch.empty_like(value_TD) if len(packed.groups) > 1 else None
    for group in packed.groups:
        size, length = group.index_GL.shape
        # [G, L, D] -> [G, H, L, D / H]
        query, key, value = (
            tensor[group.index_GL].view(size, length, heads, -1).transpose(1, 2)
            for tensor in (query_TD, key_TD, value_TD)
        )
        if takes_products(query.device.type, query.dtype):
            mixed = _by_products(query, key, value, group.mask_G11L)
        else:
            mixed = F.scaled_dot_product_attention(query, key, value, group.mask_G11L, dropout)
        mixed_TD = mixed.transpose(1, 2).reshape(size * length, -1)[group.place_T]
        if out_TD is None:
            out_TD = torch.empty_like(mixed_TD)
        out_TD = out_TD.index_copy(0, group.token_T, mixed_TD)
    assert out_TD is not None, "a packed batch has at least one attention group"
    return out_TD


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask_G11L: Tensor | None) -> Tensor:
    """Attention [G, H, L, D / H] with its weights in memory, by oneDNN's batched products.

    For bf16 on the CPU, where it takes a third to two thirds of the time of PyTorch's fused attention up to 254 tokens.
    """
    size, heads, length, width = query.shape
    query, key, value = (tensor.reshape(size * heads, length, width) for tensor in (query, key, value))
    if mask_G11L is None:
        score = torch.bmm(query, key.transpose(1, 2)).mul_(width**-0.5)
    else:
        bias = query.new_zeros(mask_G11L.shape).masked_fill_(~mask_G11L, float("-inf"))
        bias = bias.expand(-1, heads, -1, -1).reshape(size * heads, 1, length)
        score = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=width**-0.5)
    return torch.bmm(score.softmax(dim=-1), value).view(size, heads, length, width)
