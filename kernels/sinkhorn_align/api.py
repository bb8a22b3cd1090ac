"""The call that makes the labels of pretraining.

It checks its input and hands it to the operator, which chooses the backend.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from sinkhorn_align.links import Links
from sinkhorn_align.operator import align_now, align_operator
from sinkhorn_align.settings import AlignmentSettings
from sinkhorn_align.spans import Spans

Backend = Literal["auto", "native", "torch", "reference", "triton"]


@torch.no_grad()
def align(
    hidden_TD: Tensor,
    spans: Spans,
    settings: AlignmentSettings | None = None,
    *,
    backend: Backend = "auto",
) -> Links:
    """Link the source and target tokens of every pair in the batch.

    Args:
        hidden_TD: fp16, bf16, fp32 or fp64 hidden states of a packed or padded batch, flattened to [T, D]. Similarities
            are accumulated in fp32 whatever the dtype, also inside an autocast region.
        spans: where the sides of the B pairs lie in the flat batch: int32 [B] vectors (int64 will do), best on the CPU.
        settings: costs, iterations and filter; the released recipe by default.
        backend: `auto` is `triton` on a CUDA device and `native` on a CPU, or `torch`, with a warning, where no C compiler
            is at hand. `triton` takes sides of up to 512 tokens; `native` is C, compiled at its first call; `torch` is
            batched PyTorch and runs anywhere; `reference` is the float64 definition, pair by pair, on the CPU. Without
            filtering (`filter_rounds` 0) `auto` is `torch`, and `native` and `triton` cannot run.

    Returns:
        `Links` on the device of `hidden_TD`. A pair with an empty side or a non-finite similarity has no links and says
        so in `status_B`; it never raises.

    Raises:
        ValueError: for an unknown backend or one that cannot run here, spans that do not fit `hidden_TD`, or a
            side that is too long for the backend.

    `torch.compile` keeps the call as one operator, `sinkhorn_align::align`. Its launches depend on lengths, so a CUDA graph
    takes `gpu.launch.align_planned` instead, which runs a plan made outside.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"align: backend is {backend!r}, it must be one of {', '.join(get_args(Backend))}")
    if hidden_TD.dim() != 2 or not hidden_TD.is_floating_point():
        raise ValueError(
            f"align: hidden_TD is {hidden_TD.dtype} {list(hidden_TD.shape)}, it must be floating-point [T, D]; "
            "flatten a padded batch first"
        )
    if hidden_TD.shape[1] == 0:
        raise ValueError(
            f"align: hidden_TD is {list(hidden_TD.shape)}: its states have no numbers, D must be 1 or more"
        )
    settings = settings or AlignmentSettings()
    # Only compilers need the operator, and its first call imports PyTorch's, which takes seconds.
    call = align_now if type(hidden_TD) is Tensor and not torch.compiler.is_compiling() else align_operator
    return Links(
        *call(
            hidden_TD,
            *spans,
            backend,
            settings.cost,
            settings.similarity,
            settings.temperature,
            settings.sinkhorn_iterations,
            settings.filter_rounds,
            settings.discount,
        )
    )


def warm_up(width: int, dtype: torch.dtype, device: torch.device, settings: AlignmentSettings | None = None) -> None:
    """Compile what the first calls of `align` would have to compile: on a GPU the kernels of every size of pairs, else nothing.

    Args:
        width, dtype: those of the hidden states. settings: as for `align`.
    """
    if device.type == "cuda":
        from sinkhorn_align.gpu.launch import warm_up as warm_up_kernels  # late, as in `operator`

        warm_up_kernels(width, dtype, device, settings or AlignmentSettings())
