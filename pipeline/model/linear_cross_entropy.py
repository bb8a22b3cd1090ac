"""Cross-entropy of a linear layer over a large vocabulary, in chunks of rows: the logits are never whole in memory.

The gradients are made in the forward, while a chunk's logits are at hand, as Liger-Kernel does it (Hsu et al., 2024).
Knows neither masks nor models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model import devices
from pipeline.model.cross_entropy import RowLosses, add_logit_gradients, padded, padded_bias, row_losses
from pipeline.model.flops import LOGITS_AT_ONCE
from pipeline.model.linear import linear, product

LOGITS_AT_ONCE_ON_CPU = 2**26
ROWS_AT_ONCE = 128
"""Rows that a chunk on a GPU is a multiple of, as the tiles of a product are."""
# Gradients are made before the loss scale is known. Those of rare words are as small as 1 / V, below fp16's normal range.
FP16_SCALE = 2.0**12


def linear_cross_entropy(
    input_PD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_P: Tensor,
    logits_at_once: int | None = None,
    groups: Sequence[int] = (),
) -> tuple[Tensor, ...]:
    """Summed cross-entropy of `input @ weight.T + bias`, and how many targets are the first argmax of their row.

    input_PD, weight_VD, bias_V: one floating dtype; target_P: int64, P may be 0. Logits and losses are taken in fp32 (in
    fp64 for fp64 input). At most `logits_at_once` logits (at least one row's; on a GPU 128 rows') are in memory at a time; by
    default 2**26 on the CPU, else 2**29. Returns (loss: scalar, fp32 or fp64; correct: scalar int64).

    groups: rows of each of several groups that lie one after the other. Then the losses of all groups are returned, and after
    them how many are correct in each. Whatever is made of these losses must have the same derivative with respect to each:
    one gradient is made for all rows, before it is known.
    """
    return _grouped(input_PD, weight_VD, bias_V, target_P, 0.0, logits_at_once, groups or (len(input_PD),))


def smoothed_cross_entropy(
    input_PD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_P: Tensor,
    smoothing: float,
    logits_at_once: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `linear_cross_entropy`, with label smoothing: a share `smoothing` of the target's probability is all words' alike.

    (Szegedy et al., CVPR 2016; `torch.nn.functional.cross_entropy` has the same definition.) Returns (the smoothed loss;
    without gradient the loss that is not smoothed, in the same dtype; correct).
    """
    found = _grouped(input_PD, weight_VD, bias_V, target_P, smoothing, logits_at_once, (len(input_PD),))
    if not smoothing:
        loss, correct = found
        return loss, loss.detach(), correct
    loss, plain, correct = found
    return loss, plain, correct


def _grouped(
    input_PD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_P: Tensor,
    smoothing: float,
    logits_at_once: int | None,
    groups: Sequence[int],
) -> tuple[Tensor, ...]:
    """The loss of every group; then, if it is smoothed, of every one that without; then of every one how many are correct."""
    assert sum(groups) == len(input_PD), "every row is in one group"
    fused = takes_kernels(input_PD)
    most = logits_at_once or (LOGITS_AT_ONCE if devices.on_gpu(input_PD) else LOGITS_AT_ONCE_ON_CPU)
    rows = max(most // len(weight_VD), 1)
    rows = equal_rows(len(input_PD), rows) if fused else rows
    differentiate = torch.is_grad_enabled()
    found: tuple[Tensor, ...] = _LinearCrossEntropy.apply(
        *(input_PD, weight_VD, bias_V, target_P, smoothing, rows, tuple(groups), differentiate)
    )
    return found


def takes_kernels(input_PD: Tensor) -> bool:
    """Whether the logits go through the kernels of `cross_entropy`: on a GPU, in fp32 or half precision."""
    return devices.on_gpu(input_PD) and input_PD.dtype != torch.float64


def equal_rows(rows: int, most: int) -> int:
    """Rows of each of the fewest chunks that have at most `most`, but whole multiples of 128."""
    most = max(most // ROWS_AT_ONCE, 1) * ROWS_AT_ONCE
    chunks = max(-(-rows // most), 1)
    return max(-(-rows // (chunks * ROWS_AT_ONCE)), 1) * ROWS_AT_ONCE


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input_PD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        target_P: Tensor,
        smoothing: float,
        rows: int,
        groups: tuple[int, ...],
        differentiate: bool,
    ) -> tuple[Tensor, ...]:
        wide = torch.promote_types(input_PD.dtype, torch.float32)
        sums = _Gradients(input_PD, weight_VD, wide) if differentiate else None
        chunks = _by_kernels if takes_kernels(input_PD) else _by_tensors
        plain_P, beyond_P, hit_P = chunks(input_PD, weight_VD, bias_V, target_P, smoothing, rows, sums)
        plain, correct = ([part.sum() for part in rows_P.split(groups)] for rows_P in (plain_P, hit_P))
        ctx.set_materialize_grads(False)
        ctx.gradients, ctx.groups = sums, len(groups)
        if beyond_P is None:
            ctx.mark_non_differentiable(*correct)
            return *plain, *correct
        beyond = [smoothing * part.sum() for part in beyond_P.split(groups)]
        ctx.mark_non_differentiable(*plain, *correct)
        return *(one + more for one, more in zip(plain, beyond, strict=True)), *plain, *correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        sums, ctx.gradients = ctx.gradients, None
        assert sums is not None, "gradients are kept for one backward"
        return *sums.scaled(_the_one(upstream[: ctx.groups])), None, None, None, None, None


def _the_one(factors: Sequence[Tensor | None]) -> Tensor:
    """The derivative that is the same for every group's loss."""
    first, *others = factors
    assert first is not None and all(other is not None for other in others), "all groups' losses are asked for, or none"
    if not devices.on_gpu(first):  # a GPU would be waited for
        alike = (torch.allclose(first, other, rtol=0, atol=0, equal_nan=True) for other in others if other is not None)
        assert all(alike), "the losses of all groups have one derivative"
    return first


class _Rows(NamedTuple):
    """Of every row its loss without smoothing, what a smoothing of 1 would add to it, and whether its target is the argmax."""

    plain_P: Tensor
    beyond_P: Tensor | None  # None: there is no smoothing
    hit_P: Tensor  # bool, or int32


def _by_tensors(
    input_PD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_P: Tensor,
    smoothing: float,
    rows: int,
    sums: _Gradients | None,
) -> _Rows:
    """Losses of all rows; gradients into `sums`."""
    wide = torch.promote_types(input_PD.dtype, torch.float32)
    plain, beyond, hits = ([input_PD.new_zeros(0, dtype=dtype)] for dtype in (wide, wide, torch.bool))
    for first in range(0, len(input_PD), rows):
        chunk = slice(first, first + rows)
        logits_CV = linear(input_PD[chunk], weight_VD, bias_V).to(wide)
        target_C1 = target_P[chunk, None]
        highest_C1, argmax_C1 = logits_CV.max(dim=1, keepdim=True)
        target_logit_C1 = logits_CV.gather(1, target_C1)
        if smoothing:
            beyond.append((target_logit_C1 - logits_CV.mean(dim=1, keepdim=True)).squeeze(1))
        share_CV = logits_CV.softmax(dim=1)
        del logits_CV
        # The largest share is at least 1 / V, so that its logarithm is safe where the target's might underflow.
        plain.append((highest_C1 - share_CV.gather(1, argmax_C1).log() - target_logit_C1).squeeze(1))
        hits.append((argmax_C1 == target_C1).squeeze(1))
        if sums is not None:
            if smoothing:
                share_CV -= smoothing / len(weight_VD)
            sums.add(chunk, share_CV.scatter_add_(1, target_C1, share_CV.new_full(target_C1.shape, smoothing - 1)))
    return _Rows(torch.cat(plain), torch.cat(beyond) if smoothing else None, torch.cat(hits))


def _by_kernels(
    input_PD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_P: Tensor,
    smoothing: float,
    rows: int,
    sums: _Gradients | None,
) -> _Rows:
    """The same by `cross_entropy`: logits in fp32 as the product accumulates them, their gradients in the dtype of the input.

    Rows of both buffers have a padded length, and their chunks are written into the same memory.
    """
    words = len(weight_VD)
    rows = min(rows, max(len(input_PD), 1))
    bias_U = padded_bias(bias_V)
    logits_CU = input_PD.new_empty(rows, padded(words), dtype=torch.float32)
    found = []
    d_logits_CU = torch.empty_like(logits_CU, dtype=input_PD.dtype) if sums is not None else None
    for first in range(0, len(input_PD), rows):
        chunk = slice(first, first + rows)
        target_C = target_P[chunk]
        of_chunk_CU = logits_CU[: len(target_C)]
        _wide_product(input_PD[chunk], weight_VD.T, out=of_chunk_CU[:, :words])
        found.append(row_losses(of_chunk_CU, bias_U, target_C, words, bool(smoothing)))
        if sums is not None and d_logits_CU is not None:
            d_chunk_CU = d_logits_CU[: len(target_C)]
            into = d_chunk_CU, sums.d_bias_U
            log_sum_C = found[-1].log_sum_C
            add_logit_gradients(of_chunk_CU, bias_U, target_C, log_sum_C, words, smoothing, sums.factor, *into)
            sums.add_products(chunk, d_chunk_CU[:, :words])
    if not found:
        found = [row_losses(logits_CU[:0], bias_U, target_P, words, bool(smoothing))]
    of_all = found[0] if len(found) == 1 else RowLosses(*map(torch.cat, zip(*found, strict=True)))
    beyond_P = of_all.target_C - of_all.mean_C if smoothing else None
    return _Rows(of_all.log_sum_C - of_all.target_C, beyond_P, of_all.hit_C)


class _Gradients:
    """Gradients of the summed loss, accumulated over chunks in `wide`, multiplied by a power of two in fp16."""

    def __init__(self, input_PD: Tensor, weight_VD: Tensor, wide: torch.dtype) -> None:
        self._input_PD, self._weight_VD = input_PD, weight_VD
        self.factor = FP16_SCALE if input_PD.dtype == torch.float16 else 1.0
        self._d_input_PD = torch.empty_like(input_PD, dtype=wide)
        self._d_weight_VD: Tensor | None = None
        self.d_bias_U = torch.zeros(padded(len(weight_VD)), dtype=wide, device=weight_VD.device)
        self._d_bias_V = self.d_bias_U[: len(weight_VD)]

    def add(self, chunk: slice, d_logits_CV: Tensor) -> None:
        """Take one chunk's gradient with respect to its logits."""
        self._d_bias_V += d_logits_CV.sum(dim=0)
        d_logits_CV = d_logits_CV if self.factor == 1 else d_logits_CV.mul_(self.factor)
        self.add_products(chunk, d_logits_CV.to(self._input_PD.dtype))

    def add_products(self, chunk: slice, d_logits_CV: Tensor) -> None:
        """The same without the bias, of the gradient times `factor` in the input's dtype."""
        _wide_product(d_logits_CV, self._weight_VD, out=self._d_input_PD[chunk])
        if self._d_weight_VD is None:
            self._d_weight_VD = _wide_product(d_logits_CV.T, self._input_PD[chunk])
        elif self._d_weight_VD.dtype == d_logits_CV.dtype:
            # Not a product by oneDNN and a sum: what counts here is how often the large gradient is written.
            self._d_weight_VD.addmm_(d_logits_CV.T, self._input_PD[chunk])
        else:
            self._d_weight_VD += _wide_product(d_logits_CV.T, self._input_PD[chunk])

    def scaled(self, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients times `upstream`, in the parameters' dtype; used up afterwards."""
        if self._d_weight_VD is None:
            self._d_weight_VD = torch.zeros_like(self._weight_VD, dtype=self._d_bias_V.dtype)
        dtype = self._weight_VD.dtype
        factor = upstream if self.factor == 1 else upstream / self.factor
        return (
            _times(self._d_input_PD, factor, dtype),
            _times(self._d_weight_VD, factor, dtype),
            _times(self._d_bias_V, upstream, dtype),
        )


def _times(wide: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """wide * factor in `dtype`; `wide` is used up. A GPU multiplies and rounds in one pass over memory."""
    if devices.on_gpu(wide) and dtype != wide.dtype:
        return torch.mul(wide, factor, out=torch.empty_like(wide, dtype=dtype))
    return wide.mul_(factor).to(dtype)


def _wide_product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """left @ right, in fp32 at least: a sum over thousands of tokens can be beyond fp16's range. Into `out`, if given."""
    if devices.on_gpu(left):
        if left.dtype in (torch.float32, torch.float64):
            return torch.mm(left, right, out=out)
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    if left.dtype in (torch.float32, torch.float64):
        found = product(left, right)
    elif left.dtype == torch.bfloat16:
        found = (left @ right).float()
    else:
        found = left.float() @ right.float()
    return found if out is None else out.copy_(found)
