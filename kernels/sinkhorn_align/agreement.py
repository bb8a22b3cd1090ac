"""Whether a backend's answer is the reference's: every link, partner, score and status, but for decisions too close to call.

Tests, benchmark and GPU checks share it, so that all of them mean the same by "equal".
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkhorn_align.links import Links, PairStatus
from sinkhorn_align.reference import align_pair, align_reference, is_finite, log_kernel, similarity
from sinkhorn_align.settings import AlignmentSettings
from sinkhorn_align.spans import Spans

SCORE_TOLERANCE = 1e-4
"""By how much the log mass of a link may differ where log K is at most 100; in proportion where it is larger."""


@dataclass(frozen=True)
class Agreement:
    """How a batch of pairs compares with the reference."""

    pairs: int
    too_close: tuple[int, ...]
    """Pairs with other links that had two candidates whose log masses differ by less than the tolerance."""
    wrong: tuple[str, ...]
    """A line for each pair that differs without such an excuse."""


def compare(
    answer: Links,
    hidden_TD: Tensor,
    spans: Spans,
    settings: AlignmentSettings | None = None,
) -> Agreement:
    """Compare an answer with `align_reference` on the same arguments, pair by pair, on the CPU."""
    settings = settings or AlignmentSettings()
    hidden_TD = hidden_TD.cpu()
    spans = spans.checked(len(hidden_TD))
    expected = align_reference(hidden_TD, spans, settings)
    outside_T = torch.ones(len(hidden_TD), dtype=torch.bool)
    too_close, wrong = [], []
    for pair in range(spans.pairs):
        source_start, rows, target_start, columns = (int(vector_B[pair]) for vector_B in spans)
        source = slice(source_start, source_start + rows)
        target = slice(target_start, target_start + columns)
        outside_T[source] = outside_T[target] = False
        difference = _difference(answer, expected, pair, source, target)
        if difference is None:
            continue
        margin, tolerance = _closest_call(hidden_TD[source], hidden_TD[target], settings)
        field, size = difference
        if (field == "score" and size <= tolerance) or (field == "link" and margin < tolerance):
            too_close += [pair] if field == "link" else []
        else:
            wrong.append(f"pair {pair}: {field} differs ({size:g}), closest call {margin:g}, tolerance {tolerance:g}")
    if bool((answer.partner_T.cpu()[outside_T] != -1).any() or (answer.links_RT.cpu()[:, outside_T] != -1).any()):
        wrong.append("a token of no pair has a link")
    return Agreement(spans.pairs, tuple(too_close), tuple(wrong))


def _difference(answer: Links, expected: Links, pair: int, source: slice, target: slice) -> tuple[str, float] | None:
    """The first field in which a pair's answers differ, and by how much (scores) or in how many places."""
    if answer.status_B[pair].item() != expected.status_B[pair].item():
        return "status", 1
    for side in (source, target):
        other_links = (answer.links_RT[:, side].cpu() != expected.links_RT[:, side]).sum().item()
        other_partners = (answer.partner_T[side].cpu() != expected.partner_T[side]).sum().item()
        if other_links or other_partners:
            return "link", other_links + other_partners
    largest = 0.0
    for side in (source, target):
        ours_L, theirs_L = answer.score_T[side].cpu(), expected.score_T[side]
        if not torch.equal(ours_L == -math.inf, theirs_L == -math.inf) or ours_L.isnan().any():
            return "score", math.inf
        linked_L = theirs_L > -math.inf
        if linked_L.any():
            largest = max(largest, float((ours_L - theirs_L)[linked_L].abs().max()))
    return ("score", largest) if largest else None


def _closest_call(source_MD: Tensor, target_ND: Tensor, settings: AlignmentSettings) -> tuple[float, float]:
    """How close the pair's closest decision was, best minus second best of a row or column in any round, and how close a
    decision must be for fp32 to choose either."""
    answer = align_pair(source_MD, target_ND, settings)
    similarity_MN = similarity(source_MD, target_ND, settings)
    if answer.status != PairStatus.OK or not is_finite(similarity_MN, settings):
        return math.inf, 0.0
    tolerance = SCORE_TOLERANCE * max(1.0, float(log_kernel(similarity_MN, settings).abs().max()) / 100)
    margin = math.inf
    row_linked_M = torch.zeros(len(source_MD), dtype=torch.bool)
    column_linked_N = torch.zeros(len(target_ND), dtype=torch.bool)
    no_links_M = torch.full((len(source_MD),), -1)
    for column_M in answer.column_RM if settings.filter_rounds else [no_links_M]:
        links_MN = row_linked_M[:, None].int() + column_linked_N[None, :].int()
        mass_MN = answer.log_plan_MN + math.log(settings.discount) * (links_MN == 1)
        mass_MN = mass_MN.masked_fill(links_MN == 2, -math.inf)
        for matrix in (mass_MN, mass_MN.T):
            if matrix.shape[1] > 1:
                best_L2 = matrix.topk(2, dim=1).values
                margin = min(margin, float((best_L2[:, 0] - best_L2[:, 1]).nan_to_num(math.inf).min()))
        row_linked_M |= column_M >= 0
        column_linked_N[column_M[column_M >= 0]] = True
    return margin, tolerance
