"""The one call of this package, and the choice of the backend that answers it.

It checks its input and knows of the backends only that each turns hidden states and spans into links.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from sinkhorn_align.batched import align_batched
from sinkhorn_align.links import Links
from sinkhorn_align.reference import align_reference
from sinkhorn_align.settings import AlignmentSettings
from sinkhorn_align.spans import Spans

Backend = Literal["auto", "torch", "reference", "triton"]


@torch.no_grad()
def align(
    hidden_TD: Tensor,
    source_start_B: Tensor,
    source_length_B: Tensor,
    target_start_B: Tensor,
    target_length_B: Tensor,
    settings: AlignmentSettings | None = None,
    *,
    backend: Backend = "auto",
) -> Links:
    """Link the source and target tokens of every pair in the batch.

    Args:
        hidden_TD: fp16, bf16, fp32 or fp64 hidden states of a packed or padded batch, flattened to [T, D]. Similarities
            are accumulated in fp32 whatever the dtype, also inside an autocast region.
        source_start_B, source_length_B, target_start_B, target_length_B: int32 [B], flat token index and number of
            tokens of each side (int64, or on another device, will do). Sides must not share tokens; B may be 0 and a
            side may be empty.
        settings: costs, iterations and filter; the released recipe by default.
        backend: `auto` chooses by the device of `hidden_TD`; for now that is `torch` on every device, CUDA included.
            `torch` is batched and runs anywhere, `reference` is the float64 definition, pair by pair, on the CPU.
            `triton` is an error until that backend is built.

    Returns:
        `Links` on the device of `hidden_TD`. A pair with an empty side or a non-finite similarity has no links and says
        so in `status_B`; it never raises.

    Raises:
        ValueError: for an unknown or unbuilt backend, or index vectors that do not fit `hidden_TD`.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"align: backend is {backend!r}, it must be one of {', '.join(get_args(Backend))}")
    if backend == "triton":
        raise ValueError("align: backend 'triton' is not built yet; use 'auto' or 'torch'")
    if hidden_TD.dim() != 2 or not hidden_TD.is_floating_point():
        raise ValueError(
            f"align: hidden_TD is {hidden_TD.dtype} {list(hidden_TD.shape)}, it must be floating-point [T, D]; "
            "flatten a padded batch first"
        )
    spans = Spans.checked(source_start_B, source_length_B, target_start_B, target_length_B, tokens=len(hidden_TD))
    run = align_reference if backend == "reference" else align_batched
    with torch.autocast(hidden_TD.device.type, enabled=False):
        return run(hidden_TD, spans, settings or AlignmentSettings())
