"""The Triton backend: one launch for each tile shape in the batch, chosen from lengths on the host, without a sync.

It lays out what the kernels read and write; `fused` and `streamed` hold the kernels.
"""

import math

import torch
from torch import Tensor

from sinkhorn_align.fused import align_pairs_fused
from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.settings import (
    CLIP_FLOOR,
    LARGEST_SIMILARITY,
    SMALLEST_SIDE_FOR_MORE_ROUNDS,
    AlignmentSettings,
)
from sinkhorn_align.spans import Spans
from sinkhorn_align.tiles import fused_groups, tile_of


def align_triton(hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Links:
    """`align` by Triton kernels."""
    tokens, width = hidden_TD.shape
    device = hidden_TD.device
    hidden_TD = hidden_TD.contiguous()
    # Links of every round and partners: one allocation, one fill.
    answer = torch.full((settings.filter_rounds + 1, tokens), -1, dtype=torch.int32, device=device)
    links_RT, partner_T = answer[:-1], answer[-1]
    score_T = torch.full((tokens,), -math.inf, device=device)
    status_B = torch.full((len(spans),), int(PairStatus.EMPTY_SIDE), dtype=torch.int32, device=device)
    vectors_4B = torch.stack(
        [spans.source_start_B, spans.source_length_B, spans.target_start_B, spans.target_length_B]
    ).int()
    for pair_B, rows, columns in fused_groups(spans.source_length_B, spans.target_length_B):
        tile = tile_of(rows, columns, hidden_TD.element_size())
        pair_vectors_5B = torch.cat([pair_B.int()[None], vectors_4B[:, pair_B]]).to(device, non_blocking=True)
        align_pairs_fused[(len(pair_B),)](
            hidden_TD,
            pair_vectors_5B,
            links_RT,
            partner_T,
            score_T,
            status_B,
            width,
            tokens,
            len(pair_B),
            settings.temperature,
            math.log(settings.discount),
            CLIP_FLOOR,
            LARGEST_SIMILARITY,
            COST_IS_CLIP=settings.cost == "clip",
            COSINE=settings.similarity == "cosine",
            ITERATIONS=settings.sinkhorn_iterations,
            ROUNDS=settings.filter_rounds,
            SMALLEST_FOR_MORE_ROUNDS=SMALLEST_SIDE_FOR_MORE_ROUNDS,
            NON_FINITE=int(PairStatus.NON_FINITE),
            BLOCK_M=tile.rows,
            BLOCK_N=tile.columns,
            BLOCK_K=tile.depth,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return Links(links_RT, partner_T, score_T, status_B)
