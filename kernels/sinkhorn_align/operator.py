"""`align` as one PyTorch operator, so that a compiled model that calls it stays whole, and the choice of its backend.

Compilers see tensors, numbers and shapes only: settings travel as plain values, and the fake kernel knows the shapes.
"""

import functools
import os
import warnings

import torch
from torch import Tensor

from sinkhorn_align.cpu.batched import align_batched
from sinkhorn_align.cpu.native import align_native, library
from sinkhorn_align.links import Links
from sinkhorn_align.reference import align_reference
from sinkhorn_align.settings import AlignmentSettings, check_filters
from sinkhorn_align.spans import Spans


def align_now(
    hidden_TD: Tensor,
    source_start_B: Tensor,
    source_length_B: Tensor,
    target_start_B: Tensor,
    target_length_B: Tensor,
    backend: str,
    cost: str,
    similarity: str,
    temperature: float,
    sinkhorn_iterations: int,
    filter_rounds: int,
    discount: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`align`; the fields of `AlignmentSettings` in, the fields of `Links` out."""
    spans = Spans(source_start_B, source_length_B, target_start_B, target_length_B).checked(len(hidden_TD))
    settings = AlignmentSettings(cost, similarity, temperature, sinkhorn_iterations, filter_rounds, discount)  # type: ignore[arg-type]
    with torch.autocast(hidden_TD.device.type, enabled=False):
        links = _run(backend, hidden_TD, spans, settings)
    return links.links_RT, links.partner_T, links.score_T, links.status_B


# Its launches follow from lengths on the host, which a replayed CUDA graph would not see.
align_operator = torch.library.custom_op("sinkhorn_align::align", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))(
    align_now
)


@align_operator.register_fake
def _(
    hidden_TD: Tensor,
    source_start_B: Tensor,
    source_length_B: Tensor,
    target_start_B: Tensor,
    target_length_B: Tensor,
    backend: str,
    cost: str,
    similarity: str,
    temperature: float,
    sinkhorn_iterations: int,
    filter_rounds: int,
    discount: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens = hidden_TD.shape[0]
    return (
        hidden_TD.new_empty((filter_rounds, tokens), dtype=torch.int32),
        hidden_TD.new_empty((tokens,), dtype=torch.int32),
        hidden_TD.new_empty((tokens,), dtype=torch.float32),
        hidden_TD.new_empty(source_start_B.shape, dtype=torch.int32),
    )


def _run(backend: str, hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Links:
    if backend == "auto":
        backend = _best_on(hidden_TD.device.type) if settings.filter_rounds else "torch"
    if backend in ("native", "triton"):
        check_filters(settings, backend)
    if backend == "reference":
        return align_reference(hidden_TD, spans, settings)
    if backend == "torch":
        return align_batched(hidden_TD, spans, settings)
    if backend == "native":
        if hidden_TD.device.type != "cpu":
            raise ValueError(
                f"align: backend 'native' runs on the CPU and hidden_TD is on {hidden_TD.device}; use 'auto' or 'torch'"
            )
        return align_native(hidden_TD, spans, settings)
    if not hidden_TD.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"align: backend 'triton' needs a CUDA device and hidden_TD is on {hidden_TD.device}; use 'auto' or 'torch'"
        )
    # Imported late: Triton comes with PyTorch for CUDA, and a machine without a GPU need not have it.
    try:
        from sinkhorn_align.gpu.launch import align_triton
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ValueError(
            "align: backend 'triton' needs the package triton; install it, or use backend='torch'"
        ) from None
    return align_triton(hidden_TD, spans, settings)


@functools.cache
def _best_on(device_type: str) -> str:
    """The fastest backend of a device; said once where it is not the one that it could be."""
    if device_type == "cuda":
        return "triton"
    if device_type != "cpu":
        return "torch"
    try:
        library()
    except ValueError as error:
        warnings.warn(f"{error}. Until then pairs are aligned by backend 'torch', which is slower.", stacklevel=2)
        return "torch"
    return "native"
