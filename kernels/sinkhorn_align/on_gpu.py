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
from sinkhorn_align.streamed import align_pairs_streamed, similarity_to_scratch
from sinkhorn_align.tiles import PRODUCT_TILE, STREAMED_ROWS, fused_groups, fused_tile, streamed_groups


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

    def vectors_of(pair_B: Tensor) -> Tensor:
        """int32 [5, pairs] on the device: the pairs' indices, then their spans."""
        return torch.cat([pair_B.int()[None], vectors_4B[:, pair_B]]).to(device, non_blocking=True)

    numbers = {
        "temperature": settings.temperature,
        "log_discount": math.log(settings.discount),
        "clip_floor": CLIP_FLOOR,
        "largest_similarity": LARGEST_SIMILARITY,
    }
    choices = {
        "COST_IS_CLIP": settings.cost == "clip",
        "ITERATIONS": settings.sinkhorn_iterations,
        "ROUNDS": settings.filter_rounds,
        "SMALLEST_FOR_MORE_ROUNDS": SMALLEST_SIDE_FOR_MORE_ROUNDS,
        "NON_FINITE": int(PairStatus.NON_FINITE),
    }
    cosine = settings.similarity == "cosine"
    answers = (links_RT, partner_T, score_T, status_B)

    for pair_B, rows, columns in fused_groups(spans.source_length_B, spans.target_length_B):
        tile = fused_tile(rows, columns, hidden_TD.element_size())
        align_pairs_fused[(len(pair_B),)](
            hidden_TD,
            vectors_of(pair_B),
            *answers,
            width,
            tokens,
            len(pair_B),
            **numbers,
            **choices,
            COSINE=cosine,
            **tile.options(),
        )
    for pair_B, rows, columns in streamed_groups(spans.source_length_B, spans.target_length_B):
        pairs, pair_vectors_5B = len(pair_B), vectors_of(pair_B)
        scratch = {"dtype": torch.float32, "device": device}
        similarity_BMN = torch.empty((pairs, rows, columns), **scratch)
        tile = fused_tile(PRODUCT_TILE, PRODUCT_TILE, hidden_TD.element_size())
        similarity_to_scratch[(pairs, -(-rows // PRODUCT_TILE), -(-columns // PRODUCT_TILE))](
            hidden_TD,
            pair_vectors_5B,
            similarity_BMN,
            width,
            pairs,
            MOST_ROWS=rows,
            MOST_COLUMNS=columns,
            COSINE=cosine,
            **tile.options(),
        )
        align_pairs_streamed[(pairs,)](
            pair_vectors_5B,
            similarity_BMN,
            torch.empty((pairs, rows), **scratch),
            torch.empty((2, pairs, rows), dtype=torch.int32, device=device),
            torch.empty((pairs, columns), **scratch),
            torch.empty((2, pairs, columns), dtype=torch.int32, device=device),
            *answers,
            tokens,
            pairs,
            **numbers,
            **choices,
            MOST_ROWS=rows,
            MOST_COLUMNS=columns,
            BLOCK_M=STREAMED_ROWS,
            BLOCK_N=columns,
            num_warps=8,
        )
    return Links(*answers)
