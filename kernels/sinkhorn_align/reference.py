"""The definition of an alignment in code: float64, one pair at a time, one function a step.

Every faster backend must agree with it; it knows nothing of them and is never meant to be fast.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.settings import (
    CLIP_FLOOR,
    LARGEST_SIMILARITY,
    SMALLEST_SIDE_FOR_MORE_ROUNDS,
    AlignmentSettings,
)
from sinkhorn_align.spans import Spans


@dataclass(frozen=True)
class PairAlignment:
    """One pair's answer in local indices: the plan, and per round which column each row was linked to."""

    status: PairStatus
    log_plan_MN: Tensor
    column_RM: Tensor


def similarity(source_MD: Tensor, target_ND: Tensor, settings: AlignmentSettings) -> Tensor:
    """S, float64 [M, N]: dot products, or cosines, where a zero vector has cosine 0 with every other."""
    source_MD, target_ND = source_MD.double(), target_ND.double()
    if settings.similarity == "cosine":
        source_MD, target_ND = _unit_rows(source_MD), _unit_rows(target_ND)
    return source_MD @ target_ND.T


def _unit_rows(rows_LD: Tensor) -> Tensor:
    # Scaled to a largest entry of 1 first, so that the squares of huge and tiny rows stay in range.
    largest_L1 = rows_LD.abs().amax(dim=1, keepdim=True)
    scaled_LD = rows_LD / largest_L1.masked_fill(largest_L1 == 0, 1.0)
    norm_L1 = scaled_LD.norm(dim=1, keepdim=True)
    return scaled_LD / norm_L1.masked_fill(norm_L1 == 0, 1.0)


def is_finite(similarity_MN: Tensor, settings: AlignmentSettings) -> bool:
    """Whether every similarity, also divided by the temperature, is a number within the range of the definition."""
    largest = similarity_MN.abs().max() * max(1.0, 1.0 / settings.temperature)
    return bool(largest <= LARGEST_SIMILARITY)


def log_kernel(similarity_MN: Tensor, settings: AlignmentSettings) -> Tensor:
    """log K, float64 [M, N]."""
    if settings.cost == "clip":
        return similarity_MN.clamp(min=CLIP_FLOOR).log()
    return similarity_MN / settings.temperature


def transport_plan(log_kernel_MN: Tensor, settings: AlignmentSettings) -> Tensor:
    """log P = log K + f + g, float64 [M, N], with potentials of unit marginals after the given iterations.

    The last step decides whose marginals are exact: rows for `clip`, which steps columns first, columns for `exp`.
    """
    rows, columns = log_kernel_MN.shape
    if min(rows, columns) == 1 and settings.sinkhorn_iterations > 0:
        # The potentials of the longer side absorb such a kernel whole: every cell has the same mass. With no kernel to
        # absorb, rounding cannot choose among them.
        log_kernel_MN = torch.zeros_like(log_kernel_MN)
    row_potential_M1 = log_kernel_MN.new_zeros(rows, 1)
    column_potential_1N = log_kernel_MN.new_zeros(1, columns)
    for _ in range(settings.sinkhorn_iterations):
        if settings.cost == "clip":
            column_potential_1N = -torch.logsumexp(log_kernel_MN + row_potential_M1, dim=0, keepdim=True)
            row_potential_M1 = -torch.logsumexp(log_kernel_MN + column_potential_1N, dim=1, keepdim=True)
        else:
            row_potential_M1 = -torch.logsumexp(log_kernel_MN + column_potential_1N, dim=1, keepdim=True)
            column_potential_1N = -torch.logsumexp(log_kernel_MN + row_potential_M1, dim=0, keepdim=True)
    return log_kernel_MN + row_potential_M1 + column_potential_1N


def filter_plan(log_plan_MN: Tensor, settings: AlignmentSettings) -> Tensor:
    """The links of a plan: int64 [filter rounds, M], the column that each row was linked to in that round, or -1."""
    rows, columns = log_plan_MN.shape
    column_RM = torch.full((settings.filter_rounds, rows), -1)
    row_linked_M = torch.zeros(rows, dtype=torch.bool)
    column_linked_N = torch.zeros(columns, dtype=torch.bool)
    for round_ in range(settings.filter_rounds):
        if round_ > 0 and min(rows, columns) < SMALLEST_SIDE_FOR_MORE_ROUNDS:
            break
        if row_linked_M.all() or column_linked_N.all():
            break
        both_MN = row_linked_M[:, None] & column_linked_N[None, :]
        one_MN = row_linked_M[:, None] ^ column_linked_N[None, :]
        candidate_MN = log_plan_MN + math.log(settings.discount) * one_MN
        candidate_MN = candidate_MN.masked_fill(both_MN, -math.inf)

        best_column_M = candidate_MN.argmax(dim=1)  # the first of equals, as the definition asks
        best_row_N = candidate_MN.argmax(dim=0)
        for row, column in enumerate(best_column_M.tolist()):
            if best_row_N[column] == row and not both_MN[row, column]:
                column_RM[round_, row] = column
        linked_M = column_RM[round_] >= 0
        row_linked_M |= linked_M
        column_linked_N[column_RM[round_, linked_M]] = True
    return column_RM


def align_pair(source_MD: Tensor, target_ND: Tensor, settings: AlignmentSettings) -> PairAlignment:
    """Align one pair; a pair with a status other than `OK` has a plan of no mass and no links."""
    rows, columns = len(source_MD), len(target_ND)
    no_plan_MN = torch.full((rows, columns), -math.inf, dtype=torch.float64)
    no_links_RM = torch.full((settings.filter_rounds, rows), -1)
    if min(rows, columns) == 0:
        return PairAlignment(PairStatus.EMPTY_SIDE, no_plan_MN, no_links_RM)
    similarity_MN = similarity(source_MD, target_ND, settings)
    if not is_finite(similarity_MN, settings):
        return PairAlignment(PairStatus.NON_FINITE, no_plan_MN, no_links_RM)
    log_plan_MN = transport_plan(log_kernel(similarity_MN, settings), settings)
    return PairAlignment(PairStatus.OK, log_plan_MN, filter_plan(log_plan_MN, settings))


def align_reference(hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Links:
    """`align`, pair by pair on the CPU; the answer lies on the device of `hidden_TD`."""
    on_host_TD = hidden_TD.cpu()
    tokens = len(hidden_TD)
    links_RT = torch.full((settings.filter_rounds, tokens), -1, dtype=torch.int32)
    partner_T = torch.full((tokens,), -1, dtype=torch.int32)
    mass_T = torch.full((tokens,), -math.inf, dtype=torch.float64)
    status_B = torch.zeros(spans.pairs, dtype=torch.int32)

    def offer(token: int, partner: int, mass: float) -> None:
        heavier = mass > mass_T[token]
        if heavier or (mass == mass_T[token] and partner < partner_T[token]):
            partner_T[token], mass_T[token] = partner, mass

    for pair, (source, rows, target, columns) in enumerate(zip(*(vector.tolist() for vector in spans), strict=True)):
        answer = align_pair(on_host_TD[source : source + rows], on_host_TD[target : target + columns], settings)
        status_B[pair] = int(answer.status)
        if settings.filter_rounds == 0 and answer.status == PairStatus.OK:
            for row, column in enumerate(answer.log_plan_MN.argmax(dim=1).tolist()):
                offer(source + row, target + column, float(answer.log_plan_MN[row, column]))
            for column, row in enumerate(answer.log_plan_MN.argmax(dim=0).tolist()):
                offer(target + column, source + row, float(answer.log_plan_MN[row, column]))
        for round_, row in torch.nonzero(answer.column_RM >= 0).tolist():
            column = int(answer.column_RM[round_, row])
            links_RT[round_, source + row] = target + column
            mass = float(answer.log_plan_MN[row, column])
            offer(source + row, target + column, mass)
            offer(target + column, source + row, mass)
    device = hidden_TD.device
    return Links(links_RT.to(device), partner_T.to(device), mass_T.float().to(device), status_B.to(device))
