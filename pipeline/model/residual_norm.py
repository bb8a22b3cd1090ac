"""The norm after a residual: on a GPU sum and norm are one pass over memory. Knows matrices; nothing of layers.

`ResidualNorm` without dropout is `nn.LayerNorm` of a sum, whose definition it takes on a CPU. Its gradient is PyTorch's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.model import devices

WARPS = 4


class ResidualNorm(nn.LayerNorm):
    """`nn.LayerNorm` of `kept_TD + dropout(new_TD)`; the same parameters under the same names."""

    def forward(self, input: Tensor, new_TD: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        """The norm of hidden states [T, D], to which new ones are added first if given. dropout: of these, in training."""
        if new_TD is None:
            return super().forward(input)
        if devices.on_gpu(input) and not (dropout and self.training) and input.dtype != torch.float64:
            normed_TD: Tensor = _ResidualNorm.apply(input, new_TD, self.weight, self.bias, self.eps)
            return normed_TD
        return super().forward(input + F.dropout(new_TD, dropout, self.training))


@torch.library.custom_op("xlm_align::add_and_norm", mutates_args=())
def add_and_norm(
    left_TD: Tensor, right_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum [T, D] and its norm, in the dtype of both; mean and 1 / standard deviation of its rows, fp32 [T, 1]."""
    from pipeline.model.norm_kernel import add_and_norm as kernel  # Triton comes with PyTorch for CUDA alone

    left_TD, right_TD = left_TD.contiguous(), right_TD.contiguous()
    found, (tokens, width) = _empty(left_TD), left_TD.shape
    block = 1 << (width - 1).bit_length()
    if tokens:
        with devices.launching_on(left_TD):
            kernel[(tokens,)](left_TD, right_TD, weight_D, bias_D, *found, width, eps, BLOCK=block, num_warps=WARPS)
    return found


@add_and_norm.register_fake
def _(
    left_TD: Tensor, right_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty(left_TD)


def _empty(like_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean_T1, rstd_T1 = (like_TD.new_empty((like_TD.shape[0], 1), dtype=torch.float32) for _ in range(2))
    return torch.empty_like(like_TD), torch.empty_like(like_TD), mean_T1, rstd_T1


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kept_TD: Tensor, new_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
        summed_TD, normed_TD, mean_T1, rstd_T1 = add_and_norm(kept_TD, new_TD, weight_D, bias_D, eps)
        ctx.save_for_backward(summed_TD, mean_T1, rstd_T1, weight_D, bias_D)
        return normed_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_TD: Tensor) -> tuple[Tensor | None, ...]:
        summed_TD, mean_T1, rstd_T1, weight_D, bias_D = ctx.saved_tensors
        wants_kept, wants_new, wants_weight, wants_bias, _ = ctx.needs_input_grad
        d_sum_TD, d_weight_D, d_bias_D = torch.ops.aten.native_layer_norm_backward(
            *(upstream_TD, summed_TD, list(weight_D.shape), mean_T1, rstd_T1, weight_D, bias_D),
            [wants_kept or wants_new, wants_weight, wants_bias],
        )
        return d_sum_TD if wants_kept else None, d_sum_TD if wants_new else None, d_weight_D, d_bias_D, None
