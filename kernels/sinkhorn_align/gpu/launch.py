"""The Triton backend: one launch for each tile shape in the batch, chosen from lengths on the host, without a sync.

It lays out what the kernels read and write; `fused` and `streamed` hold the kernels, `tiles` the launch sizes.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import cycle

import torch
from torch import Tensor

from sinkhorn_align.gpu.fused import align_pairs_fused
from sinkhorn_align.gpu.streamed import align_pairs_streamed
from sinkhorn_align.gpu.tiles import (
    FUSED_TILES,
    PRODUCT_TILE,
    Launch,
    Plan,
    Tile,
    capability_of,
    fused_tile,
    streamed_options,
)
from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.settings import (
    CLIP_FLOOR,
    LARGEST_SIMILARITY,
    SMALLEST_SIDE_FOR_MORE_ROUNDS,
    AlignmentSettings,
    check_filters,
)
from sinkhorn_align.spans import Spans


def align_triton(hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Links:
    """`align` by Triton kernels."""
    return align_planned(hidden_TD, Plan.of(spans, hidden_TD.device), settings)


def align_planned(
    hidden_TD: Tensor,
    plan: Plan,
    settings: AlignmentSettings,
    tile_of: Callable[[int, int, int, int, bool], Tile] = fused_tile,
    *,
    unfused: bool = False,
) -> Links:
    """The part of `align_triton` that the device does; in a CUDA graph, capture this, with the plan made outside.

    fp64 is read as fp32. For measurements, `tile_of` (rows, columns, bytes of an element, capability, whether cosines) chooses
    the launch sizes, and `unfused` takes the streamed path for every pair: a product into memory, then Sinkhorn and filtering.
    """
    check_filters(settings, "triton")
    tokens, device = len(hidden_TD), hidden_TD.device
    answer = Links(
        links_RT=torch.full((settings.filter_rounds, tokens), -1, dtype=torch.int32, device=device),
        partner_T=torch.full((tokens,), -1, dtype=torch.int32, device=device),
        score_T=torch.full((tokens,), -math.inf, device=device),
        status_B=torch.full((plan.pairs,), int(PairStatus.EMPTY_SIDE), dtype=torch.int32, device=device),
    )
    # On the CPU these run in Triton's interpreter, whose product takes the bits of bf16 for integers.
    if hidden_TD.dtype == torch.float64 or (hidden_TD.dtype == torch.bfloat16 and not hidden_TD.is_cuda):
        hidden_TD = hidden_TD.float()
    launch_into(answer, hidden_TD.contiguous(), plan, settings, tile_of, unfused=unfused)
    return answer


def warm_up(width: int, dtype: torch.dtype, device: torch.device, settings: AlignmentSettings) -> None:
    """Compile every kernel that batches of this width, dtype and settings may need, so that none of them waits for it.

    Takes seconds the first time, and next to nothing where Triton's cache has them.
    """
    length_B = torch.tensor([*FUSED_TILES, FUSED_TILES[-1] + 1])
    start_B = 2 * (length_B.cumsum(0) - length_B)
    spans = Spans(start_B, length_B, start_B + length_B, length_B)
    align_triton(torch.zeros((2 * int(length_B.sum()), width), dtype=dtype, device=device), spans, settings)


def launch_into(
    answer: Links,
    hidden_TD: Tensor,
    plan: Plan,
    settings: AlignmentSettings,
    tile_of: Callable[[int, int, int, int, bool], Tile] = fused_tile,
    *,
    unfused: bool = False,
) -> None:
    """Run the kernels of a plan over contiguous fp16, bf16 or fp32 hidden states; `answer` holds that of no links.

    On a GPU the launches run side by side: each may leave multiprocessors idle while its last pairs are at work.
    """
    runs: list[Callable[[], None]] = [
        partial(_launch_fused, answer, hidden_TD, plan, launch, settings, tile_of)
        if launch.fused and not unfused
        else partial(_launch_streamed, answer, hidden_TD, plan, launch, settings)
        for launch in plan.launches
    ]
    if hidden_TD.is_cuda:
        _side_by_side(runs, hidden_TD.device)
    else:
        for run in runs:
            run()


def _side_by_side(runs: list[Callable[[], None]], device: torch.device) -> None:
    """After what is queued on the current stream, and before what is queued on it next; a graph captures it as branches."""
    current = torch.cuda.current_stream(device)
    side = _side_streams(device)[: max(0, len(runs) - 1)]
    for stream in side:
        stream.wait_stream(current)
    for run, stream in zip(runs, cycle([current, *side]), strict=False):
        with torch.cuda.stream(stream):
            run()
    for stream in side:
        current.wait_stream(stream)


@cache
def _side_streams(device: torch.device) -> list[torch.cuda.Stream]:
    """One for each fused tile, which is as many as a batch has launches beside that of its long pairs."""
    return [torch.cuda.Stream(device) for _ in FUSED_TILES]


def _launch_fused(
    answer: Links,
    hidden_TD: Tensor,
    plan: Plan,
    launch: Launch,
    settings: AlignmentSettings,
    tile_of: Callable[[int, int, int, int, bool], Tile],
) -> None:
    tokens, width = hidden_TD.shape
    cosine = settings.similarity == "cosine"
    tile = tile_of(launch.rows, launch.columns, hidden_TD.element_size(), capability_of(hidden_TD.device), cosine)
    align_pairs_fused[(launch.pairs,)](
        hidden_TD,
        plan.vectors_5B,
        answer.links_RT,
        answer.partner_T,
        answer.score_T,
        answer.status_B,
        width,
        tokens,
        launch.first,
        plan.vectors_5B.shape[1],
        **constants(settings),
        **tile.options(),
    )


def _launch_streamed(answer: Links, hidden_TD: Tensor, plan: Plan, launch: Launch, settings: AlignmentSettings) -> None:
    (tokens, width), device = hidden_TD.shape, hidden_TD.device
    pairs, rows, columns = launch.pairs, launch.rows, launch.columns
    align_pairs_streamed[(pairs, -(-rows // PRODUCT_TILE), -(-columns // PRODUCT_TILE))](
        hidden_TD,
        plan.vectors_5B,
        torch.empty((pairs, rows, columns), device=device),
        torch.empty((pairs, 2, rows), device=device),
        torch.empty((pairs, 2, rows), dtype=torch.int32, device=device),
        torch.empty((pairs, 2, columns), dtype=torch.int32, device=device),
        torch.zeros((pairs, 2), dtype=torch.int32, device=device),
        answer.links_RT,
        answer.partner_T,
        answer.score_T,
        answer.status_B,
        width,
        tokens,
        launch.first,
        plan.vectors_5B.shape[1],
        rows,
        columns,
        **constants(settings),
        **streamed_options(hidden_TD.element_size(), capability_of(device)),
    )


def constants(settings: AlignmentSettings) -> dict[str, float | int]:
    """What both paths' kernels are given of the settings and the definition, by parameter name."""
    return {
        "temperature": settings.temperature,
        "log_discount": math.log2(settings.discount),
        "clip_floor": CLIP_FLOOR,
        "largest_similarity": LARGEST_SIMILARITY,
        "iterations": settings.sinkhorn_iterations,
        "COST_IS_CLIP": settings.cost == "clip",
        "COSINE": settings.similarity == "cosine",
        "ROUNDS": settings.filter_rounds,
        "SMALLEST_FOR_MORE_ROUNDS": SMALLEST_SIDE_FOR_MORE_ROUNDS,
        "NON_FINITE": int(PairStatus.NON_FINITE),
    }
