"""The batched backend: the reference's steps on dense blocks of padded pairs, in fp32, with no loop over pairs.

It runs on any device PyTorch has, and knows pairs by their spans only. Padding never enters a sum or wins a maximum:
its kernel is -inf (no mass) and its potentials are 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkhorn_align.buckets import blocks
from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.settings import (
    CLIP_FLOOR,
    LARGEST_SIMILARITY,
    SMALLEST_SIDE_FOR_MORE_ROUNDS,
    AlignmentSettings,
)
from sinkhorn_align.spans import Spans


@dataclass(frozen=True)
class _Side:
    """One side of a block's pairs: flat token indices and which of them are real; padding points one past the batch."""

    start_B1: Tensor
    token_BL: Tensor
    real_BL: Tensor

    @classmethod
    def of(cls, start_B: Tensor, length_B: Tensor, padded: int, tokens: int, device: torch.device) -> "_Side":
        position_L = torch.arange(padded, device=device)
        start_B1 = start_B.to(device)[:, None]
        real_BL = position_L < length_B.to(device)[:, None]
        return cls(start_B1, torch.where(real_BL, start_B1 + position_L, tokens), real_BL)

    def hidden(self, hidden_TD: Tensor) -> Tensor:
        """fp32 [B, L, D]; padding repeats some real token, whose products are masked."""
        tokens, width = hidden_TD.shape
        flat_TD = hidden_TD.index_select(0, self.token_BL.clamp(max=tokens - 1).flatten())
        return flat_TD.float().view(*self.token_BL.shape, width)

    def flat(self, local_BL: Tensor) -> Tensor:
        """Local indices into this side, [..., B, L] with -1 for none, as flat token indices, int32."""
        return torch.where(local_BL >= 0, self.start_B1 + local_BL, -1).int()


def align_batched(hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Links:
    """`align` by blocks of pairs of like lengths."""
    tokens, width = hidden_TD.shape
    device = hidden_TD.device
    # One slot past the batch takes what is written for padding.
    links_RT = torch.full((settings.filter_rounds, tokens + 1), -1, dtype=torch.int32, device=device)
    partner_T = torch.full((tokens + 1,), -1, dtype=torch.int32, device=device)
    score_T = torch.full((tokens + 1,), -math.inf, device=device)
    status_B = torch.full((len(spans),), int(PairStatus.EMPTY_SIDE), dtype=torch.int32, device=device)

    for pair_B, padded in blocks(spans.source_length_B, spans.target_length_B, width):
        source = _Side.of(spans.source_start_B[pair_B], spans.source_length_B[pair_B], padded, tokens, device)
        target = _Side.of(spans.target_start_B[pair_B], spans.target_length_B[pair_B], padded, tokens, device)
        similarity_BMN = similarity(source.hidden(hidden_TD), target.hidden(hidden_TD), settings)
        real_BMN = source.real_BL[:, :, None] & target.real_BL[:, None, :]
        finite_B = is_finite(similarity_BMN.masked_fill(~real_BMN, 0.0), settings)
        log_plan_BMN = transport_plan(similarity_BMN, source.real_BL, target.real_BL, settings)
        # A non-finite pair is all padding from here on.
        source_real_BM = source.real_BL & finite_B[:, None]
        target_real_BN = target.real_BL & finite_B[:, None]
        column_RBM, row_RBN = filter_plan(log_plan_BMN, source_real_BM, target_real_BN, settings)

        status_B[pair_B.to(device)] = torch.where(finite_B, int(PairStatus.OK), int(PairStatus.NON_FINITE)).int()
        links_RT[:, source.token_BL] = target.flat(column_RBM)
        for side, other, found_RBL, plan_BLK in (
            (source, target, column_RBM, log_plan_BMN),
            (target, source, row_RBN, log_plan_BMN.transpose(1, 2)),
        ):
            heaviest_BL, mass_BL = heaviest(found_RBL, plan_BLK)
            partner_T[side.token_BL] = other.flat(heaviest_BL)
            score_T[side.token_BL] = mass_BL
    return Links(links_RT[:, :tokens].contiguous(), partner_T[:tokens], score_T[:tokens], status_B)


def similarity(source_BMD: Tensor, target_BND: Tensor, settings: AlignmentSettings) -> Tensor:
    """S, fp32 [B, M, N]: dot products, or cosines."""
    if settings.similarity == "cosine":
        source_BMD, target_BND = _unit_rows(source_BMD), _unit_rows(target_BND)
    return torch.bmm(source_BMD, target_BND.transpose(1, 2))


def _unit_rows(rows_BLD: Tensor) -> Tensor:
    # Scaled to a largest entry of 1 first, so that the squares of huge and tiny rows stay in range.
    largest_BL1 = rows_BLD.abs().amax(dim=2, keepdim=True)
    scaled_BLD = rows_BLD / largest_BL1.masked_fill(largest_BL1 == 0, 1.0)
    norm_BL1 = scaled_BLD.norm(dim=2, keepdim=True)
    return scaled_BLD / norm_BL1.masked_fill(norm_BL1 == 0, 1.0)


def is_finite(similarity_BMN: Tensor, settings: AlignmentSettings) -> Tensor:
    """bool [B]: every similarity of the pair, also divided by the temperature, is a number within range."""
    return similarity_BMN.abs().amax(dim=(1, 2)) * max(1.0, 1.0 / settings.temperature) <= LARGEST_SIMILARITY


def transport_plan(
    similarity_BMN: Tensor, source_real_BM: Tensor, target_real_BN: Tensor, settings: AlignmentSettings
) -> Tensor:
    """log P, fp32 [B, M, N], -inf on padding."""
    if settings.cost == "clip":
        log_kernel_BMN = similarity_BMN.clamp(min=CLIP_FLOOR).log()
    else:
        log_kernel_BMN = similarity_BMN / settings.temperature
    if settings.sinkhorn_iterations > 0:
        # One-token sides: every cell has the same mass, see the reference.
        shorter_B = torch.minimum(source_real_BM.sum(dim=1), target_real_BN.sum(dim=1))
        log_kernel_BMN = log_kernel_BMN.masked_fill(shorter_B[:, None, None] == 1, 0.0)
    padded_BMN = ~(source_real_BM[:, :, None] & target_real_BN[:, None, :])
    log_kernel_BMN = log_kernel_BMN.masked_fill(padded_BMN, -math.inf)

    row_padded_BM1, column_padded_B1N = ~source_real_BM[:, :, None], ~target_real_BN[:, None, :]
    row_potential_BM1 = log_kernel_BMN.new_zeros(row_padded_BM1.shape)
    column_potential_B1N = log_kernel_BMN.new_zeros(column_padded_B1N.shape)
    for half_step in range(2 * settings.sinkhorn_iterations):
        columns_now = (half_step % 2 == 0) == (settings.cost == "clip")
        if columns_now:
            mass_B1N = torch.logsumexp(log_kernel_BMN + row_potential_BM1, dim=1, keepdim=True)
            column_potential_B1N = (-mass_B1N).masked_fill(column_padded_B1N, 0.0)
        else:
            mass_BM1 = torch.logsumexp(log_kernel_BMN + column_potential_B1N, dim=2, keepdim=True)
            row_potential_BM1 = (-mass_BM1).masked_fill(row_padded_BM1, 0.0)
    return log_kernel_BMN + row_potential_BM1 + column_potential_B1N


def filter_plan(
    log_plan_BMN: Tensor, source_real_BM: Tensor, target_real_BN: Tensor, settings: AlignmentSettings
) -> tuple[Tensor, Tensor]:
    """Each round's links from both sides: rows' columns, int64 [R, B, M], and columns' rows, [R, B, N]; -1 for none."""
    shorter_B = torch.minimum(source_real_BM.sum(dim=1), target_real_BN.sum(dim=1))
    more_rounds_B = shorter_B >= SMALLEST_SIDE_FOR_MORE_ROUNDS
    open_row_BM, open_column_BN = source_real_BM, target_real_BN  # real, and without a link so far
    column_RBM, row_RBN = [], []
    candidate_BMN = log_plan_BMN
    for round_ in range(settings.filter_rounds):
        adds_B = open_row_BM.any(dim=1) & open_column_BN.any(dim=1)
        if round_ > 0:
            adds_B = adds_B & more_rounds_B
            open_M1, open_1N = open_row_BM[:, :, None], open_column_BN[:, None, :]
            # The candidates of this round, from the plan itself: discounts of earlier rounds do not add up.
            candidate_BMN = torch.where(open_M1 ^ open_1N, log_plan_BMN + math.log(settings.discount), log_plan_BMN)
            candidate_BMN = candidate_BMN.masked_fill(~(open_M1 | open_1N), -math.inf)
        column_BM, row_BN = candidate_BMN.argmax(dim=2), candidate_BMN.argmax(dim=1)  # the first of equals
        allowed_BM = source_real_BM & (open_row_BM | open_column_BN.gather(1, column_BM)) & adds_B[:, None]
        allowed_BN = target_real_BN & (open_column_BN | open_row_BM.gather(1, row_BN)) & adds_B[:, None]
        column_RBM.append(_mutual(column_BM, row_BN, allowed_BM))
        row_RBN.append(_mutual(row_BN, column_BM, allowed_BN))
        open_row_BM = open_row_BM & (column_RBM[-1] < 0)
        open_column_BN = open_column_BN & (row_RBN[-1] < 0)
    return torch.stack(column_RBM), torch.stack(row_RBN)


def _mutual(best_BL: Tensor, other_best_BK: Tensor, allowed_BL: Tensor) -> Tensor:
    """`best_BL` where the other side's best leads back and the link is allowed, else -1."""
    position_L = torch.arange(best_BL.shape[1], device=best_BL.device)
    leads_back_BL = other_best_BK.gather(1, best_BL) == position_L
    return torch.where(leads_back_BL & allowed_BL, best_BL, -1)


def heaviest(found_RBL: Tensor, log_plan_BLK: Tensor) -> tuple[Tensor, Tensor]:
    """Of the links that the rounds found for each token, the one with the most mass, the lowest index among equals.

    Returns its other end, int64 [B, L] (-1 none), and its log mass, fp32 [B, L] (-inf none).
    """
    best_BL = torch.full_like(found_RBL[0], -1)
    mass_BL = torch.full(best_BL.shape, -math.inf, device=best_BL.device)
    for found_BL in found_RBL:
        found_mass_BL = log_plan_BLK.gather(2, found_BL.clamp(min=0)[:, :, None]).squeeze(2)
        heavier_BL = (found_mass_BL > mass_BL) | ((found_mass_BL == mass_BL) & (found_BL < best_BL))
        heavier_BL = heavier_BL & (found_BL >= 0)
        best_BL = torch.where(heavier_BL, found_BL, best_BL)
        mass_BL = torch.where(heavier_BL, found_mass_BL, mass_BL)
    return best_BL, mass_BL
