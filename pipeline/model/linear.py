"""Linear layers; in fp32 on a CPU with AVX-512 by oneDNN, where PyTorch would ask MKL.

MKL keeps to AVX2 on processors that are not Intel's: oneDNN makes more than twice its operations a second there.
`python -m pipeline.benchmark` times training with either. Knows matrices; nothing of models.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.model import devices

WORTH_IT = 1 << 24
"""Multiplications from which on oneDNN is asked: it takes a millisecond or two to prepare for a shape that it has not seen,
and the number of tokens changes from batch to batch."""
FUSED = (torch.float32, torch.bfloat16)
"""Where bias and GELU are put into a product without gradient; bf16 PyTorch itself gives to oneDNN, product by product."""

SHAPES_KEPT = "32"
"""oneDNN and PyTorch's layer above it each keep what they made for the last 1,024 shapes, some megabytes a shape. The number of
tokens is new in nearly every batch: these would be gigabytes for shapes that hardly ever return, and a step has some 25."""
SHAPE_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Variables from which both learn how many, when they are first asked."""


class Linear(nn.Linear):
    """`nn.Linear` by `linear`; the same parameters under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class PaddedLinear(nn.Linear):
    """`Linear` for inputs with more than one leading dimension, [G, L, K] to [G, L, N], as models of Transformers have them."""

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim < 2:
            return F.linear(input, self.weight, self.bias)
        return linear(input.flatten(0, -2), self.weight, self.bias).unflatten(0, input.shape[:-1])


class LinearGELU(nn.Linear):
    """`Linear`, then exact GELU. A layer of its own, because ZeRO-3 brings a layer's weights when that layer is called."""

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Its output, and the input for the residual beside it, as `linears` gives it back."""
        if devices.on_gpu(input) and torch.is_grad_enabled():
            (output_TN,), kept_TK = _together(input, Joined(self.weight, self.bias), (self,))
            return F.gelu(output_TN), kept_TK
        return linear_gelu(input, self.weight, self.bias), input


class Joined(NamedTuple):
    """Weights and biases of layers that have the same input, those of one below those of another."""

    weight_NK: Tensor
    bias_N: Tensor


def linear(input_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias [T, N], as `F.linear` up to rounding; differentiable once where oneDNN is asked."""
    if not torch.is_grad_enabled():
        if takes_onednn(input_TK, weight_NK, FUSED):
            return _onednn(input_TK, weight_NK, bias_N)
    elif takes_onednn(input_TK, weight_NK):
        output_TN: Tensor = _OneDNNLinear.apply(input_TK, weight_NK, bias_N)
        return output_TN
    return F.linear(input_TK, weight_NK, bias_N)


def linear_gelu(input_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """gelu(linear(...)), exact; one pass over the output where oneDNN is asked and no gradient."""
    if not torch.is_grad_enabled() and takes_onednn(input_TK, weight_NK, FUSED):
        return _onednn(input_TK, weight_NK, bias_N, "gelu", "none")
    return F.gelu(linear(input_TK, weight_NK, bias_N))


def linears(
    input_TK: Tensor, layers: Sequence[nn.Linear], joined: Joined | None = None
) -> tuple[Sequence[Tensor], Tensor]:
    """What each layer, all of one width and with a bias, makes of the same input; and the input for the residual beside them.

    On a GPU it is one product of them all, and their gradient is added to the residual's within a product, if that takes the
    input from here. joined: what `joined_parameters` made of the layers; None: they are joined for this input. Not at ZeRO-3,
    which brings a layer's weights when that layer is called.
    """
    if not _are_taken_together(layers):
        return [layer(input_TK) for layer in layers], input_TK
    return _together(input_TK, joined or _joined([layers])[0], layers)


def joined_parameters(groups: Sequence[Sequence[nn.Linear]]) -> Sequence[Joined | None]:
    """What `linears` multiplies with for each group of layers of one shape: two copies in all. None where it does not."""
    together = _are_taken_together([layer for group in groups for layer in group])
    return _joined(groups) if together else [None] * len(groups)


def _joined(groups: Sequence[Sequence[nn.Linear]]) -> list[Joined]:
    layers = [layer for group in groups for layer in group]
    with torch.no_grad():
        weight_NK, bias_N = (torch.cat(each) for each in zip(*((one.weight, one.bias) for one in layers), strict=True))
    rows = [sum(len(layer.weight) for layer in group) for group in groups]
    return [Joined(*parts) for parts in zip(weight_NK.split(rows), bias_N.split(rows), strict=True)]


def _are_taken_together(layers: Sequence[nn.Linear]) -> bool:
    return bool(layers) and devices.on_gpu(layers[0].weight) and not any(hasattr(one.weight, "ds_id") for one in layers)


def _together(input_TK: Tensor, joined: Joined, layers: Sequence[nn.Linear]) -> tuple[Sequence[Tensor], Tensor]:
    *found, kept_TK = _Together.apply(
        input_TK, *joined, *(layer.weight for layer in layers), *(layer.bias for layer in layers)
    )
    return found, kept_TK


def product(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    """left @ right [M, N], as `torch.mm` up to rounding; not differentiable."""
    if takes_onednn(left_MK, right_KN.T):
        return _onednn(left_MK, right_KN.T)
    return left_MK @ right_KN


def wide_scores(left_CQD: Tensor, right_CLD: Tensor) -> Tensor:
    """Products of rows, left @ right.T of each of C, in fp32 [C, Q, L]; on a GPU as they are summed, not rounded before."""
    if devices.on_gpu(left_CQD) and left_CQD.dtype in (torch.float16, torch.bfloat16):
        scores_CQL: Tensor = _WideScores.apply(left_CQD, right_CLD)
        return scores_CQL
    return (left_CQD @ right_CLD.transpose(1, 2)).float()


def takes_onednn(input_TK: Tensor, weight_NK: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> bool:
    """Whether oneDNN is asked: fp32 matrices, large enough, on a CPU with AVX-512, and `torch.backends.mkldnn.enabled`."""
    if input_TK.device.type != "cpu" or devices.on_gpu(input_TK):
        return False
    _keep_few_shapes()
    if input_TK.dtype not in dtypes or input_TK.ndim != 2 or input_TK.numel() * len(weight_NK) < WORTH_IT:
        return False
    return _mkl_falls_short() and bool(torch.backends.mkldnn.enabled)


@cache
def _keep_few_shapes() -> None:
    """Before the first product of any kind: in bf16 PyTorch itself asks oneDNN."""
    for name in SHAPE_CACHES:
        os.environ.setdefault(name, SHAPES_KEPT)


@cache
def _mkl_falls_short() -> bool:
    """Whether both libraries are there, and AVX-512, without which neither has been seen to be the faster one."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return both and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        ctx.save_for_backward(input_TK, weight_NK)
        return _onednn(input_TK, weight_NK, bias_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_TN: Tensor) -> tuple[Tensor | None, ...]:
        input_TK, weight_NK = ctx.saved_tensors
        wants_input, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            product(upstream_TN, weight_NK) if wants_input else None,
            product(upstream_TN.T, input_TK) if wants_weight else None,
            upstream_TN.sum(dim=0) if wants_bias else None,
        )


class _Together(torch.autograd.Function):
    """Of an input and joined parameters; then weights of the layers and their biases, which get the gradients."""

    @staticmethod
    def forward(
        ctx: Any, input_TK: Tensor, weight_NK: Tensor, bias_N: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(input_TK, weight_NK)
        ctx.set_materialize_grads(False)
        ctx.layers = len(parameters) // 2
        return *torch.addmm(bias_N, input_TK, weight_NK.T).chunk(ctx.layers, dim=1), input_TK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        input_TK, weight_NK = ctx.saved_tensors
        *of_layers, d_kept_TK = upstream
        upstream_TN = _side_by_side(of_layers)
        d_input_TK = None
        if ctx.needs_input_grad[0]:
            d_input_TK = (
                upstream_TN @ weight_NK if d_kept_TK is None else torch.addmm(d_kept_TK, upstream_TN, weight_NK)
            )
        if not any(ctx.needs_input_grad[3:]):
            return d_input_TK, None, None, *[None] * (2 * ctx.layers)
        d_weights, d_biases = upstream_TN.T @ input_TK, upstream_TN.sum(dim=0)
        return d_input_TK, None, None, *d_weights.chunk(ctx.layers), *d_biases.chunk(ctx.layers)


def _side_by_side(tensors: Sequence[Tensor | None]) -> Tensor:
    found = [tensor for tensor in tensors if tensor is not None]
    assert len(found) == len(tensors), "the output of every layer is read"
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


class _WideScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left_CQD: Tensor, right_CLD: Tensor) -> Tensor:
        ctx.save_for_backward(left_CQD, right_CLD)
        return torch.bmm(left_CQD, right_CLD.transpose(1, 2), out_dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_CQL: Tensor) -> tuple[Tensor, Tensor]:
        left_CQD, right_CLD = ctx.saved_tensors
        upstream_CQL = upstream_CQL.to(left_CQD.dtype)
        return torch.bmm(upstream_CQL, right_CLD), torch.bmm(upstream_CQL.transpose(1, 2), left_CQD)


def _onednn(
    input_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None, then: str = "none", how: str = ""
) -> Tensor:
    output_TN: Tensor = torch.ops.mkldnn._linear_pointwise(input_TK, weight_NK, bias_N, then, [], how)
    return output_TN
