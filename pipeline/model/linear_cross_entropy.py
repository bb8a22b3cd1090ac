"""Cross-entropy of a linear layer over a large vocabulary, in chunks of rows: the logits are never whole in memory.

The gradients are made in the forward, while a chunk's logits are at hand, as Liger-Kernel does it (Hsu et al., 2024).
Knows neither masks nor models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model.flops import LOGITS_AT_ONCE
from pipeline.model.linear import linear, product

LOGITS_AT_ONCE_ON_CPU = 2**26
# Gradients are made before the loss scale is known. Those of rare words are as small as 1 / V, below fp16's normal range.
FP16_SCALE = 2.0**12


def linear_cross_entropy(
    input_PD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_P: Tensor, logits_at_once: int | None = None
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of `input @ weight.T + bias`, and how many targets are the first argmax of their row.

    input_PD, weight_VD, bias_V: one floating dtype; target_P: int64, P may be 0. Logits and losses are taken in fp32 (in
    fp64 for fp64 input). At most `logits_at_once` logits (at least one row's) are in memory at a time; by default 2**26
    on the CPU, else 2**28. Returns (loss: scalar, fp32 or fp64; correct: scalar int64).
    """
    loss, _, correct = smoothed_cross_entropy(input_PD, weight_VD, bias_V, target_P, 0.0, logits_at_once)
    return loss, correct


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
    default = LOGITS_AT_ONCE_ON_CPU if input_PD.device.type == "cpu" else LOGITS_AT_ONCE
    rows = max((logits_at_once or default) // len(weight_VD), 1)
    return _LinearCrossEntropy.apply(input_PD, weight_VD, bias_V, target_P, smoothing, rows, torch.is_grad_enabled())


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
        differentiate: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(input_PD.dtype, torch.float32)
        plain = torch.zeros((), dtype=wide, device=input_PD.device)
        beyond = torch.zeros_like(plain)  # what smoothing adds to it
        correct = torch.zeros((), dtype=torch.long, device=input_PD.device)
        sums = _Gradients(input_PD, weight_VD, wide) if differentiate else None
        for first in range(0, len(input_PD), rows):
            chunk = slice(first, first + rows)
            logits_CV = linear(input_PD[chunk], weight_VD, bias_V).to(wide)
            target_C1 = target_P[chunk, None]
            highest_C1, argmax_C1 = logits_CV.max(dim=1, keepdim=True)
            target_logit_C1 = logits_CV.gather(1, target_C1)
            if smoothing:
                beyond += smoothing * (target_logit_C1 - logits_CV.mean(dim=1, keepdim=True)).sum()
            share_CV = logits_CV.softmax(dim=1)
            del logits_CV
            # The largest share is at least 1 / V, so that its logarithm is safe where the target's might underflow.
            plain += (highest_C1 - share_CV.gather(1, argmax_C1).log() - target_logit_C1).sum()
            correct += (argmax_C1 == target_C1).sum()
            if sums is not None:
                if smoothing:
                    share_CV -= smoothing / len(weight_VD)
                sums.add(chunk, share_CV.scatter_add_(1, target_C1, share_CV.new_full(target_C1.shape, smoothing - 1)))
        ctx.mark_non_differentiable(plain, correct)
        ctx.gradients = sums
        return plain + beyond, plain, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        sums, ctx.gradients = ctx.gradients, None
        assert sums is not None, "gradients are kept for one backward"
        return *sums.scaled(upstream), None, None, None, None


class _Gradients:
    """Gradients of the summed loss, accumulated over chunks in `wide`, multiplied by a power of two in fp16."""

    def __init__(self, input_PD: Tensor, weight_VD: Tensor, wide: torch.dtype) -> None:
        self._input_PD, self._weight_VD = input_PD, weight_VD
        self._factor = FP16_SCALE if input_PD.dtype == torch.float16 else 1.0
        self._d_input_PD = torch.empty_like(input_PD, dtype=wide)
        self._d_weight_VD: Tensor | None = None
        self._d_bias_V = torch.zeros(len(weight_VD), dtype=wide, device=weight_VD.device)

    def add(self, chunk: slice, d_logits_CV: Tensor) -> None:
        """Take one chunk's gradient with respect to its logits."""
        self._d_bias_V += d_logits_CV.sum(dim=0)
        d_logits_CV = d_logits_CV if self._factor == 1 else d_logits_CV.mul_(self._factor)
        d_logits_CV = d_logits_CV.to(self._input_PD.dtype)
        self._d_input_PD[chunk] = _wide_product(d_logits_CV, self._weight_VD)
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
        dtype, factor = self._weight_VD.dtype, upstream / self._factor
        return (
            self._d_input_PD.mul_(factor).to(dtype),
            self._d_weight_VD.mul_(factor).to(dtype),
            self._d_bias_V.mul_(upstream).to(dtype),
        )


def _wide_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, in fp32 at least: a sum over thousands of tokens can be beyond fp16's range."""
    if left.dtype in (torch.float32, torch.float64):
        return product(left, right)
    if left.device.type == "cuda":
        return torch.mm(left, right, out_dtype=torch.float32)
    if left.dtype == torch.bfloat16:
        return (left @ right).float()
    return left.float() @ right.float()
