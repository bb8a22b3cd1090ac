"""Losses and gradients of rows of logits on a GPU, each in one pass over them; beside them the same by tensor operations.

Own kernels and not Liger-Kernel's cross-entropy (Hsu et al., 2024): that writes gradients over the logits and so in their
dtype, knows no bias, whose gradient would be one more pass, and no loss without smoothing beside the smoothed one. Knows
logits and targets; nothing of what the logits are made of.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model import devices

ALIGNED = 64
"""Logits that a row's length is a multiple of: products on GPUs are slow over rows that do not begin at 16 bytes."""
LOSS_BLOCK, LOSS_WARPS = 4096, 8
GRADIENT_ROWS, GRADIENT_BLOCK, GRADIENT_WARPS = 8, 512, 4


class RowLosses(NamedTuple):
    """Of every row of logits with its bias added, fp32 [C] each but `hit_C`."""

    log_sum_C: Tensor  # logarithm of the summed exponentials
    target_C: Tensor  # the target's logit
    mean_C: Tensor  # of all logits; 0 where it was not asked for
    hit_C: Tensor  # int32: 1 where the target is the first argmax


def padded(words: int) -> int:
    """The length of a buffer's rows for so many logits."""
    return -(-words // ALIGNED) * ALIGNED


def padded_bias(bias_V: Tensor) -> Tensor:
    """[padded(V)], in its dtype: so kernels read it as they read the logits that it is added to."""
    return F.pad(bias_V, (0, padded(len(bias_V)) - len(bias_V)))


@torch.library.custom_op("xlm_align::row_losses", mutates_args=())
def _row_losses(
    logits_CU: Tensor, bias_U: Tensor, target_C: Tensor, words: int, mean: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from pipeline.model.logits_kernel import row_losses as kernel  # Triton comes with PyTorch for CUDA alone

    found = _empty_rows(logits_CU)
    if len(logits_CU):
        stride = logits_CU.stride(0)
        how = {"MEAN": mean, "BLOCK": LOSS_BLOCK, "num_warps": LOSS_WARPS}
        with devices.launching_on(logits_CU):
            kernel[(len(logits_CU),)](logits_CU, stride, bias_U, target_C, words, *found, **how)
    return found


@_row_losses.register_fake
def _(
    logits_CU: Tensor, bias_U: Tensor, target_C: Tensor, words: int, mean: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_rows(logits_CU)


def _empty_rows(logits_CU: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_sum_C, target_C, mean_C = (logits_CU.new_empty(len(logits_CU), dtype=torch.float32) for _ in range(3))
    return log_sum_C, target_C, mean_C, logits_CU.new_empty(len(logits_CU), dtype=torch.int32)


def row_losses(logits_CU: Tensor, bias_U: Tensor, target_C: Tensor, words: int, mean: bool) -> RowLosses:
    """One pass over logits [C, U = padded(words)] of any floating dtype, contiguous; beyond the words may lie anything.

    bias_U: of any floating dtype, as `padded_bias` makes it. On a GPU; on a CPU in Triton's interpreter.
    """
    return RowLosses(*_row_losses(logits_CU, bias_U, target_C, words, mean))


@torch.library.custom_op("xlm_align::add_logit_gradients", mutates_args=("gradient_CU", "column_sum_U"))
def add_logit_gradients(
    logits_CU: Tensor,
    bias_U: Tensor,
    target_C: Tensor,
    log_sum_C: Tensor,
    words: int,
    smoothing: float,
    factor: float,
    gradient_CU: Tensor,
    column_sum_U: Tensor,
) -> None:
    """`factor` times the gradient of the summed, smoothed loss into `gradient_CU`; without it, summed, onto `column_sum_U`.

    gradient_CU: of any floating dtype, laid out as the logits; what it holds beyond the words has no meaning.
    """
    from pipeline.model.logits_kernel import logit_gradients as kernel

    rows, stride = logits_CU.shape
    blocks = -(-stride // GRADIENT_BLOCK)
    with devices.launching_on(logits_CU):
        kernel[(blocks,)](
            *(
                logits_CU,
                stride,
                bias_U,
                target_C,
                log_sum_C,
                gradient_CU,
                column_sum_U,
                rows,
                smoothing,
                words,
                factor,
            ),
            ROWS=GRADIENT_ROWS,
            BLOCK=GRADIENT_BLOCK,
            num_warps=GRADIENT_WARPS,
        )


@add_logit_gradients.register_fake
def _(
    logits_CU: Tensor,
    bias_U: Tensor,
    target_C: Tensor,
    log_sum_C: Tensor,
    words: int,
    smoothing: float,
    factor: float,
    gradient_CU: Tensor,
    column_sum_U: Tensor,
) -> None:
    return None


def row_losses_by_tensors(logits_CU: Tensor, bias_U: Tensor, target_C: Tensor, words: int, mean: bool) -> RowLosses:
    """`row_losses` as it is defined, in the dtype of the bias."""
    value_CV = (logits_CU.to(bias_U.dtype) + bias_U)[:, :words]
    target_logit_C = value_CV.gather(1, target_C[:, None]).squeeze(1)
    mean_C = value_CV.mean(dim=1) if mean else torch.zeros_like(target_logit_C)
    hit_C = (value_CV.argmax(dim=1) == target_C).int()
    return RowLosses(value_CV.logsumexp(dim=1), target_logit_C, mean_C, hit_C)


def logit_gradients_by_tensors(
    logits_CU: Tensor, bias_U: Tensor, target_C: Tensor, words: int, smoothing: float
) -> Tensor:
    """What `add_logit_gradients` adds, as it is defined: [C, V] in the dtype of the bias, `factor` left out."""
    share_CV = (logits_CU.to(bias_U.dtype) + bias_U)[:, :words].softmax(dim=1)
    hit_CV = F.one_hot(target_C, words).to(share_CV.dtype)
    return share_CV - smoothing / words - (1 - smoothing) * hit_CV
