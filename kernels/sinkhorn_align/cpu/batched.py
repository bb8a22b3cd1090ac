"""The batched backend: the reference's steps on dense blocks of padded pairs, in fp32, with no loop over pairs.

It runs on any device PyTorch has, and knows pairs by their spans only. Padding never enters a sum or wins a maximum:
its kernel is -inf (no mass) and its potentials are 0.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sinkhorn_align.cpu.buckets import blocks
from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.settings import (
    CLIP_FLOOR,
    LARGEST_SIMILARITY,
    SMALLEST_SIDE_FOR_MORE_ROUNDS,
    AlignmentSettings,
)
from sinkhorn_align.spans import Spans

WIDEST_PRODUCT_RANGE = 40.0
"""Nats between the largest and the smallest log K of a pair up to which potentials are found by products."""

LARGEST_GATHER = 1 << 20
"""Numbers of hidden states of one side that are gathered at once: 4 MB of fp32."""

BELOW_ALL = 2e38
"""More than any two log masses differ by (see `LARGEST_SIMILARITY`), and less than fp32's range with one added."""


@dataclass(frozen=True)
class _Side:
    """One side of a block's pairs: flat token indices and which of them are real.

    Padding reads the side's first token again, so that its similarities are some of the pair's own.
    """

    start_B1: Tensor
    token_BL: Tensor
    real_BL: Tensor

    @classmethod
    def of(cls, start_B: Tensor, length_B: Tensor, padded: int, device: torch.device) -> "_Side":
        position_L = torch.arange(padded, device=device)
        start_B1 = start_B.to(device)[:, None]
        real_BL = position_L < length_B.to(device)[:, None]
        return cls(start_B1, torch.where(real_BL, start_B1 + position_L, start_B1), real_BL)

    def hidden(self, hidden_TD: Tensor, first: int, last: int) -> Tensor:
        """fp32 [last - first, L, D] of some of the pairs."""
        token_BL = self.token_BL[first:last]
        return hidden_TD.index_select(0, token_BL.flatten()).float().view(*token_BL.shape, hidden_TD.shape[1])


def _sides(spans: Spans, pair_B: Tensor, padded: int, device: torch.device) -> tuple[_Side, _Side]:
    source_start_B, source_length_B, target_start_B, target_length_B = (vector_B[pair_B] for vector_B in spans)
    return (
        _Side.of(source_start_B, source_length_B, padded, device),
        _Side.of(target_start_B, target_length_B, padded, device),
    )


def similarities(
    hidden_TD: Tensor, source: _Side, target: _Side, settings: AlignmentSettings, similarity_BMN: Tensor
) -> None:
    """Write S of a block, fp32 [B, M, N], some pairs at a time so that their hidden states stay in the cache."""
    size, padded = source.token_BL.shape
    at_once = max(1, LARGEST_GATHER // (padded * hidden_TD.shape[1]))
    for first in range(0, size, at_once):
        last = min(first + at_once, size)
        similarity_BMN[first:last] = similarity(
            source.hidden(hidden_TD, first, last), target.hidden(hidden_TD, first, last), settings
        )


class Block(NamedTuple):
    """Pairs of like lengths, padded; the similarities of padding are some of the pair's own."""

    pair_B: Tensor
    """int64 [B], on the CPU: which pairs of the batch these are."""
    similarity_BMN: Tensor
    """fp32."""
    source_real_BM: Tensor
    target_real_BN: Tensor
    finite_B: Tensor
    """bool [B], see `is_finite`."""


def similarity_blocks(hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Iterator[Block]:
    """The similarities of all pairs without an empty side, by the settings' measure; for methods with steps of their own.

    The spans are checked ones.
    """
    for pair_B, padded in blocks(spans.source_length_B, spans.target_length_B):
        source, target = _sides(spans, pair_B, padded, hidden_TD.device)
        source_BMD, target_BND = (side.hidden(hidden_TD, 0, len(pair_B)) for side in (source, target))
        similarity_BMN = similarity(source_BMD, target_BND, settings)
        yield Block(pair_B, similarity_BMN, source.real_BL, target.real_BL, is_finite(similarity_BMN, settings))


def align_batched(hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Links:
    """`align` by blocks of pairs of like lengths."""
    tokens = len(hidden_TD)
    device = hidden_TD.device
    # One slot past the batch takes what is written for padding.
    links_RT = torch.full((settings.filter_rounds, tokens + 1), -1, dtype=torch.int32, device=device)
    mass_RT = torch.full(links_RT.shape, -math.inf, device=device)
    partner_T = torch.full((tokens + 1,), -1, dtype=torch.int32, device=device)
    score_T = torch.full((tokens + 1,), -math.inf, device=device)
    status_B = torch.full((spans.pairs,), int(PairStatus.EMPTY_SIDE), dtype=torch.int32, device=device)

    cut = list(blocks(spans.source_length_B, spans.target_length_B))
    largest = max((len(pair_B) * padded**2 for pair_B, padded in cut), default=0)
    # Three arrays of a block's size for all blocks: fresh ones cost more than what is computed in them.
    work_3C = torch.empty((3, largest), device=device)
    for pair_B, padded in cut:
        block_3BMN = work_3C[:, : len(pair_B) * padded**2].view(3, len(pair_B), padded, padded)
        source, target = _sides(spans, pair_B, padded, device)
        similarity_BMN, work_2BMN = block_3BMN[0], block_3BMN[1:]
        similarities(hidden_TD, source, target, settings, similarity_BMN)
        finite_B = is_finite(similarity_BMN, settings)
        log_plan_BMN = transport_plan(similarity_BMN, source.real_BL, target.real_BL, finite_B, settings, work_2BMN)
        # A non-finite pair is all padding from here on.
        source_real_BM = source.real_BL & finite_B[:, None]
        target_real_BN = target.real_BL & finite_B[:, None]
        status_B[pair_B.to(device)] = torch.where(finite_B, int(PairStatus.OK), int(PairStatus.NON_FINITE)).int()
        if settings.filter_rounds == 0:
            for side, other, real_BL, dim in ((source, target, source_real_BM, 2), (target, source, target_real_BN, 1)):
                written_BL = torch.where(real_BL, side.token_BL, tokens)
                partner_T[written_BL] = (other.start_B1 + first_largest(log_plan_BMN, dim, work_2BMN[0])).int()
                score_T[written_BL] = log_plan_BMN.amax(dim)
            continue
        column_RBM = filter_plan(log_plan_BMN, source_real_BM, target_real_BN, settings, work_2BMN)
        written_BM = torch.where(source.real_BL, source.token_BL, tokens)
        links_RT[:, written_BM] = torch.where(column_RBM >= 0, target.start_B1 + column_RBM, -1).int()
        mass_RT[:, written_BM] = log_plan_BMN.gather(2, column_RBM.clamp(min=0).permute(1, 2, 0)).permute(2, 0, 1)
    links_RT = links_RT[:, :tokens].contiguous()
    if settings.filter_rounds == 0:
        return Links(links_RT, partner_T[:tokens].clone(), score_T[:tokens].clone(), status_B)
    return Links(links_RT, *heaviest(links_RT, mass_RT[:, :tokens]), status_B)


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
    least_B, most_B = similarity_BMN.amin(dim=(1, 2)), similarity_BMN.amax(dim=(1, 2))
    return torch.maximum(-least_B, most_B) * max(1.0, 1.0 / settings.temperature) <= LARGEST_SIMILARITY


def transport_plan(
    similarity_BMN: Tensor,
    source_real_BM: Tensor,
    target_real_BN: Tensor,
    finite_B: Tensor,
    settings: AlignmentSettings,
    work_2BMN: Tensor,
) -> Tensor:
    """log P, fp32 [B, M, N], -inf on padding; of a non-finite pair some plan. Overwrites the similarities and the work."""
    if not finite_B.all():
        similarity_BMN[~finite_B] = 1.0
    if settings.cost == "clip":
        log_kernel_BMN = similarity_BMN.clamp_(min=CLIP_FLOOR).log_()
    else:
        log_kernel_BMN = similarity_BMN.div_(settings.temperature)
    one_token_B = (source_real_BM.sum(dim=1) == 1) | (target_real_BN.sum(dim=1) == 1)
    if settings.sinkhorn_iterations > 0 and one_token_B.any():
        # One-token sides: every cell has the same mass, see the reference.
        log_kernel_BMN[one_token_B] = 0.0
    least_B, most_B = log_kernel_BMN.amin(dim=(1, 2)), log_kernel_BMN.amax(dim=(1, 2))
    for real_BL, dim in ((source_real_BM, 2), (target_real_BN, 1)):
        log_kernel_BMN.add_(torch.where(real_BL, 0.0, -math.inf).unsqueeze(dim))

    potentials = _potentials_by_products(log_kernel_BMN, most_B, source_real_BM, target_real_BN, settings, work_2BMN)
    wide_B = most_B - least_B > WIDEST_PRODUCT_RANGE
    if wide_B.any():
        for potential_BL, exact_BL in zip(
            potentials,
            _potentials_by_logarithms(log_kernel_BMN[wide_B], source_real_BM[wide_B], target_real_BN[wide_B], settings),
            strict=True,
        ):
            potential_BL[wide_B] = exact_BL
    row_potential_BM, column_potential_BN = potentials
    return log_kernel_BMN.add_(row_potential_BM[:, :, None]).add_(column_potential_BN[:, None, :])


def _potentials_by_products(
    log_kernel_BMN: Tensor,
    most_B: Tensor,
    source_real_BM: Tensor,
    target_real_BN: Tensor,
    settings: AlignmentSettings,
    work_2BMN: Tensor,
) -> tuple[Tensor, Tensor]:
    """f [B, M] and g [B, N], 0 on padding: logarithms of products of the kernel with exp(f) and exp(g).

    Eight times faster than sums of exponentials, and as exact where the kernel's largest cell is no more than
    exp(WIDEST_PRODUCT_RANGE) times its smallest: no product leaves fp32's range. `most_B`: the largest log K of a pair.
    """
    scale_BM, scale_BN = source_real_BM.float(), target_real_BN.float()
    if settings.sinkhorn_iterations == 0:
        return torch.zeros_like(scale_BM), torch.zeros_like(scale_BN)
    kernel_BMN, product_BMN = work_2BMN
    torch.sub(log_kernel_BMN, most_B[:, None, None], out=kernel_BMN).exp_()
    for half_step in range(2 * settings.sinkhorn_iterations):
        columns_now = (half_step % 2 == 0) == (settings.cost == "clip")
        if columns_now:
            mass_BN = torch.mul(kernel_BMN, scale_BM[:, :, None], out=product_BMN).sum(dim=1)
            scale_BN = torch.where(target_real_BN, 1.0 / mass_BN, 0.0)
        else:
            mass_BM = torch.mul(kernel_BMN, scale_BN[:, None, :], out=product_BMN).sum(dim=2)
            scale_BM = torch.where(source_real_BM, 1.0 / mass_BM, 0.0)
    # The kernel was scaled by its largest cell; its potentials know nothing of that.
    row_potential_BM = torch.where(source_real_BM, scale_BM.log(), 0.0)
    column_potential_BN = torch.where(target_real_BN, scale_BN.log() - most_B[:, None], 0.0)
    return row_potential_BM, column_potential_BN


def _potentials_by_logarithms(
    log_kernel_BMN: Tensor, source_real_BM: Tensor, target_real_BN: Tensor, settings: AlignmentSettings
) -> tuple[Tensor, Tensor]:
    """f [B, M] and g [B, N], 0 on padding, whatever the range of the kernel."""
    row_potential_BM, column_potential_BN = torch.zeros(2, *source_real_BM.shape, device=log_kernel_BMN.device)
    for half_step in range(2 * settings.sinkhorn_iterations):
        columns_now = (half_step % 2 == 0) == (settings.cost == "clip")
        if columns_now:
            mass_BN = torch.logsumexp(log_kernel_BMN + row_potential_BM[:, :, None], dim=1)
            column_potential_BN = (-mass_BN).masked_fill(~target_real_BN, 0.0)
        else:
            mass_BM = torch.logsumexp(log_kernel_BMN + column_potential_BN[:, None, :], dim=2)
            row_potential_BM = (-mass_BM).masked_fill(~source_real_BM, 0.0)
    return row_potential_BM, column_potential_BN


def filter_plan(
    log_plan_BMN: Tensor,
    source_real_BM: Tensor,
    target_real_BN: Tensor,
    settings: AlignmentSettings,
    work_2BMN: Tensor,
) -> Tensor:
    """The column that each row is linked to in each round, int64 [R, B, M], -1 for none."""
    shorter_B = torch.minimum(source_real_BM.sum(dim=1), target_real_BN.sum(dim=1))
    more_rounds_B = shorter_B >= SMALLEST_SIDE_FOR_MORE_ROUNDS
    log_discount = math.log(settings.discount)
    open_row_BM, open_column_BN = source_real_BM, target_real_BN  # real, and without a link so far
    column_RBM = []
    candidate_BMN = log_plan_BMN
    for round_ in range(settings.filter_rounds):
        adds_B = open_row_BM.any(dim=1) & open_column_BN.any(dim=1)
        if round_ > 0:
            adds_B = adds_B & more_rounds_B
            # The candidates of this round, from the plan itself: discounts of earlier rounds do not add up. A cell with a
            # link on both sides is put below all others, by one product instead of masks of the plan's size.
            linked_BM, linked_BN = (~open_row_BM).float(), (~open_column_BN).float()
            candidate_BMN = torch.add(log_plan_BMN, (log_discount * linked_BN)[:, None, :], out=work_2BMN[0])
            candidate_BMN.addcmul_(linked_BM[:, :, None], (log_discount - BELOW_ALL * linked_BN)[:, None, :])
        column_BM, row_BN = (first_largest(candidate_BMN, dim, work_2BMN[1]) for dim in (2, 1))
        allowed_BM = source_real_BM & (open_row_BM | open_column_BN.gather(1, column_BM)) & adds_B[:, None]
        allowed_BN = target_real_BN & (open_column_BN | open_row_BM.gather(1, row_BN)) & adds_B[:, None]
        column_RBM.append(_mutual(column_BM, row_BN, allowed_BM))
        open_row_BM = open_row_BM & (column_RBM[-1] < 0)
        open_column_BN = open_column_BN & (_mutual(row_BN, column_BM, allowed_BN) < 0)
    return torch.stack(column_RBM)


def first_largest(value_BMN: Tensor, dim: int, work_BMN: Tensor) -> Tensor:
    """The lowest index of a largest value, int64: argmax by arithmetic on floats, which on CPUs takes half the time.

    Booleans of the plan's size are as slow there, hence the comparison that gives numbers.
    """
    size = value_BMN.shape[dim]
    from_end_L = torch.arange(size, 0, -1, dtype=value_BMN.dtype, device=value_BMN.device)
    is_largest_BMN = torch.eq(value_BMN, value_BMN.amax(dim, keepdim=True), out=work_BMN)
    return (size - is_largest_BMN.mul_(from_end_L if dim == 2 else from_end_L[:, None]).amax(dim)).long()


def _mutual(best_BL: Tensor, other_best_BK: Tensor, allowed_BL: Tensor) -> Tensor:
    """`best_BL` where the other side's best leads back and the link is allowed, else -1."""
    position_L = torch.arange(best_BL.shape[1], device=best_BL.device)
    leads_back_BL = other_best_BK.gather(1, best_BL) == position_L
    return torch.where(leads_back_BL & allowed_BL, best_BL, -1)


def heaviest(links_RT: Tensor, mass_RT: Tensor) -> tuple[Tensor, Tensor]:
    """Of the links that the rounds found for each token, the one with the most mass, the lowest index among equals.

    links_RT int32 [R, T] and their log mass [R, T], on source tokens. Returns, for both sides, the other end, int32 [T]
    (-1 none), and its log mass, fp32 [T] (-inf none).
    """
    partner_T = torch.full_like(links_RT[0], -1)
    score_T = torch.full_like(mass_RT[0], -math.inf)
    for link_T, mass_T in zip(links_RT, mass_RT, strict=True):
        source_L = torch.nonzero(link_T >= 0).flatten()
        target_L = link_T[source_L].long()
        # A token has at most one link a round, so that none is written twice.
        end_2L, other_2L = torch.cat([source_L, target_L]), torch.cat([target_L, source_L]).int()
        mass_2L = mass_T[source_L].repeat(2)
        before_2L, best_2L = partner_T[end_2L], score_T[end_2L]
        heavier_2L = (mass_2L > best_2L) | ((mass_2L == best_2L) & (other_2L < before_2L))
        partner_T[end_2L] = torch.where(heavier_2L, other_2L, before_2L)
        score_T[end_2L] = torch.where(heavier_2L, mass_2L, best_2L)
    return partner_T, score_T
