"""Attention inside each sequence of a packed batch, or from it to one of another batch, by what is fastest on the device.

Knows projected tokens and where sequences lie; nothing of layers or weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.crossing import Crossing
from pipeline.data.packing import AttentionGroup, Packed
from pipeline.model import devices
from pipeline.model.flexible_attention import attend_by_blocks
from pipeline.model.position_bias import PositionBias

WIDEST_VARIABLE_HEAD = 256  # flash attention's
LONGEST_OF_PRODUCTS = {torch.bfloat16: 512, torch.float32: 96}
"""Tokens of a sequence up to which two products were faster than PyTorch's fused attention, heads 32 or 64 wide."""
flash_attention = torch.ops.aten._flash_attention_forward
"""Attention over sequences of any lengths, as PyTorch's nested tensors ask for it. `torch.nn.attention.varlen` is the same
behind an operator in Python, whose gradient fills two tensors of zeros in every layer, for outputs that nobody reads."""
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
    causal: bool = False,
) -> Tensor:
    """What every token takes from the tokens of its own sequence, [T, D]; `dropout` of the attention weights.

    bias: what is added to scores. Without blocks it is in memory for all pairs of tokens of a sequence. causal: nothing is
    taken from later tokens; there is no bias then.
    """
    assert bias is None or not causal, "a bias has keys on both sides of a query"
    if bias is not None and bias.blocks is not None:
        return attend_by_blocks(query_TD, key_TD, value_TD, heads, bias, bias.blocks)
    if bias is None and without_padding(query_TD, heads, dropout):
        bounds = packed.bounds_S1, packed.bounds_S1, packed.longest, packed.longest
        return _by_variable_lengths(query_TD, key_TD, value_TD, heads, bounds, causal)
    if causal:
        return _causally_by_groups(query_TD, key_TD, value_TD, packed, heads, dropout)
    return _by_groups(query_TD, key_TD, value_TD, packed, heads, dropout, bias)


def attend_across(
    query_TD: Tensor,
    key_UD: Tensor,
    value_UD: Tensor,
    target: Packed,
    crossing: Crossing,
    heads: int,
    dropout: float,
) -> Tensor:
    """What every token of a target takes from all tokens of its source, [T, D]; `dropout` of the attention weights.

    key_UD, value_UD: of the sources' tokens, once each, however many targets read them.
    """
    if without_padding(query_TD, heads, dropout):
        if crossing.index_U is not None:
            key_UD, value_UD = (tensor.index_select(0, crossing.index_U) for tensor in (key_UD, value_UD))
        bounds = target.bounds_S1, crossing.bounds_R1, target.longest, crossing.longest
        return _by_variable_lengths(query_TD, key_UD, value_UD, heads, bounds, causal=False)
    mixed = []
    for group, read in zip(target.groups, crossing.groups, strict=True):
        query = _laid_out(query_TD, group, heads)
        key, value = (_laid_out(tensor, read, heads) for tensor in (key_UD, value_UD))
        mixed.append(F.scaled_dot_product_attention(query, key, value, read.mask_G11L, dropout))
    return _packed_again(mixed, target)


def without_padding(query_TD: Tensor, heads: int, dropout: float) -> bool:
    """Whether sequences are attended to as they lie: see `takes_variable_lengths`."""
    device_type = "cuda" if devices.on_gpu(query_TD) else query_TD.device.type
    return takes_variable_lengths(device_type, query_TD.dtype, query_TD.shape[1] // heads, dropout)


def takes_variable_lengths(device_type: str, dtype: torch.dtype, head_width: int, dropout: float) -> bool:
    """Whether PyTorch's own attention over sequences of any lengths, without padding, runs here."""
    is_half = dtype in (torch.float16, torch.bfloat16)
    fits = head_width <= WIDEST_VARIABLE_HEAD and head_width % 8 == 0
    return device_type == "cuda" and is_half and fits and dropout == 0


def takes_products(device_type: str, dtype: torch.dtype, length: int) -> bool:
    """Whether attention without gradient is taken as two batched products, its weights in memory between them."""
    return device_type == "cpu" and length <= LONGEST_OF_PRODUCTS.get(dtype, 0) and not torch.is_grad_enabled()


def _by_variable_lengths(
    query_TD: Tensor,
    key_UD: Tensor,
    value_UD: Tensor,
    heads: int,
    bounds: tuple[Tensor, Tensor, int, int],
    causal: bool,
) -> Tensor:
    """bounds: where sequences of queries and of keys begin and end, int32; tokens of the longest of either."""
    sides = (tensor.unflatten(1, (heads, -1)) for tensor in (query_TD, key_UD, value_UD))
    mixed_THD, *_ = flash_attention(*sides, *bounds, 0.0, causal, False)
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
        query, key, value = (_laid_out(tensor, group, heads) for tensor in (query_TD, key_TD, value_TD))
        if bias is None and takes_products(query.device.type, query.dtype, query.shape[2]):
            mixed.append(_by_products(query, key, value, group.mask_G11L))
        else:
            mask = group.mask_G11L if bias is None else bias.of_group(group).to(query.dtype)
            mixed.append(F.scaled_dot_product_attention(query, key, value, mask, dropout))
    return _packed_again(mixed, packed)


def _causally_by_groups(
    query_TD: Tensor, key_TD: Tensor, value_TD: Tensor, packed: Packed, heads: int, dropout: float
) -> Tensor:
    """The same where nothing is taken from later tokens. Padding comes last, so that no real token would see it anyway."""
    mixed = []
    for group in packed.groups:
        query, key, value = (_laid_out(tensor, group, heads) for tensor in (query_TD, key_TD, value_TD))
        mixed.append(F.scaled_dot_product_attention(query, key, value, None, dropout, is_causal=True))
    return _packed_again(mixed, packed)


def _laid_out(tensor_TD: Tensor, group: AttentionGroup, heads: int) -> Tensor:
    """The tokens of a group's sequences, padded: [T, D] -> [G, H, L, D / H]."""
    size, length = group.index_GL.shape
    return tensor_TD.index_select(0, group.index_GL.flatten()).view(size, length, heads, -1).transpose(1, 2)


def _packed_again(mixed: list[Tensor], packed: Packed) -> Tensor:
    """The groups' mixtures [G, H, L, D / H] without padding, where their tokens lie: [T, D]."""
    flat = [mixed_GHLD.transpose(1, 2).flatten(0, 1).flatten(1) for mixed_GHLD in mixed]
    return (flat[0] if len(flat) == 1 else torch.cat(flat)).index_select(0, packed.place_T)


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
