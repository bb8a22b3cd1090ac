"""From hidden states of a packed batch to links between tokens: the methods that a word aligner can choose.

Knows flat tokens and the spans of pairs; nothing of words, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.settings.align_options import METHODS, Method
from sinkhorn_align import AlignmentSettings, PairStatus, Spans, align
from sinkhorn_align.cpu.batched import filter_plan, first_largest, is_finite, similarity, transport_plan
from sinkhorn_align.cpu.buckets import blocks

_ARGMAX = AlignmentSettings(cost="exp", similarity="cosine", sinkhorn_iterations=0, filter_rounds=1)
_ITERMAX = AlignmentSettings(cost="exp", similarity="cosine", sinkhorn_iterations=0, filter_rounds=2, discount=0.9)
_ONE_ITERATION = AlignmentSettings(sinkhorn_iterations=1, filter_rounds=1)
_SMALLEST_AFFINITY = 1e-12
"""What an affinity is at least, so that it has a logarithm: that of two hidden states in opposite directions is 0."""


class TokenLinks(NamedTuple):
    """Links as (pair, source token, target token), tokens counted from the start of their side. All on the CPU."""

    triple_L3: Tensor  # int64
    score_L: Tensor | None  # fp32: the cosine of the two hidden states
    non_finite_B: Tensor  # bool: a similarity was no number, so the pair has no links


def check_method(method: str, settings: AlignmentSettings | None) -> None:
    """ValueError for an unknown method, or settings that the method would not read."""
    if method not in METHODS:
        raise ValueError(f"method {method!r}: choose {', '.join(METHODS)}")
    if method != "ot-filter" and settings not in (None, AlignmentSettings()):
        raise ValueError(f"method {method!r}: has settings of its own; only ot-filter takes others")
    if settings is not None and settings.filter_rounds == 0:
        raise ValueError(
            f"method {method!r}: filter_rounds = 0 gives partners and no links; use 1 or more rounds, or ot"
        )


@torch.no_grad()
def find_links(
    hidden_TD: Tensor, spans: Spans, method: Method, settings: AlignmentSettings, scored: bool
) -> TokenLinks:
    """Link the tokens of every pair; no side may be empty, and spans are int64 on the CPU.

    `ot-filter`: the labels of pretraining, optimal transport and iterative filtering by `settings`.
    `ot`: the word aligner released with XLM-Align, see `_released`.
    `argmax`: the cosine is the largest of both its row and its column, SimAlign's (Jalili Sabet et al., 2020) `inter`.
    `itermax`: SimAlign's, `argmax` and a second round of it: there a link's two tokens may have one link, but not both, and
        such cells count 0.9 of their affinity, (1 + cosine) / 2. Finds more links.
    `match`: SimAlign's, the one-to-one links, as many as the shorter side has tokens, with the largest sum of affinities.
    """
    if method == "ot":
        triple_L3, non_finite_B = _released(hidden_TD, spans)
    elif method == "itermax":
        triple_L3, non_finite_B = _itermax(hidden_TD, spans)
    elif method == "match":
        triple_L3, non_finite_B = _match(hidden_TD, spans)
    else:
        found = align(hidden_TD, spans, settings if method == "ot-filter" else _ARGMAX)
        triple_L3 = found.local(spans).cpu()
        non_finite_B = found.status_B.cpu() == int(PairStatus.NON_FINITE)
    score_L = None
    if scored:
        pair_L, source_L, target_L = triple_L3.T
        ends = (spans.source_start_B[pair_L] + source_L, spans.target_start_B[pair_L] + target_L)
        source_LD, target_LD = (hidden_TD[token_L.to(hidden_TD.device)].float() for token_L in ends)
        score_L = F.cosine_similarity(source_LD, target_LD).cpu()
    return TokenLinks(triple_L3, score_L, non_finite_B)


def _released(hidden_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """(triples int64 [L, 3], non-finite bool [B]) by the word aligner released with XLM-Align.

    Kernel max(S, 1e-6), two Sinkhorn iterations, columns first; a link is the largest of its row in the last plan and
    the largest of its column in the plan before the last row step. As that step scales whole rows, both are asked of
    the plan after three half-steps. There is no filtering. (The released code's floor fills a copy, so that it has no
    effect there; where every similarity is positive, as nearly all are, the links are the same.)
    """
    triples, non_finite_B = [torch.empty(0, 3, dtype=torch.int64)], torch.zeros(spans.pairs, dtype=torch.bool)
    for pair_B, log_plan_BMN, source_real_BM, target_real_BN, finite_B in _plans(hidden_TD, spans):
        work_BMN = torch.empty_like(log_plan_BMN)
        row_BN = first_largest(log_plan_BMN, 1, work_BMN)
        column_mass_BN = torch.where(target_real_BN, torch.logsumexp(log_plan_BMN, dim=1), 0.0)
        column_BM = first_largest(log_plan_BMN - column_mass_BN[:, None, :], 2, work_BMN)
        position_M = torch.arange(column_BM.shape[1], device=column_BM.device)
        mutual_BM = (row_BN.gather(1, column_BM) == position_M) & source_real_BM & finite_B[:, None]
        which_L, source_L = torch.nonzero(mutual_BM, as_tuple=True)
        triple_L3 = torch.stack([pair_B.to(which_L.device)[which_L], source_L, column_BM[which_L, source_L]], dim=1)
        triples.append(triple_L3.cpu())
        non_finite_B[pair_B] = ~finite_B.cpu()
    return torch.cat(triples), non_finite_B


def _itermax(hidden_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """(triples int64 [L, 3], non-finite bool [B]) by SimAlign's iterative argmax."""
    triples, non_finite_B = [torch.empty(0, 3, dtype=torch.int64)], torch.zeros(spans.pairs, dtype=torch.bool)
    for block in _blocks(hidden_TD, spans, _ITERMAX):
        log_affinity_BMN = ((1 + block.similarity_BMN) / 2).clamp_(min=_SMALLEST_AFFINITY).log_()
        finite_B1 = block.finite_B[:, None]
        real_BM, real_BN = block.source_real_BM & finite_B1, block.target_real_BN & finite_B1
        log_affinity_BMN.masked_fill_(~(real_BM[:, :, None] & real_BN[:, None, :]), float("-inf"))
        work_2BMN = log_affinity_BMN.new_empty(2, *log_affinity_BMN.shape)
        column_RBM = filter_plan(log_affinity_BMN, real_BM, real_BN, _ITERMAX, work_2BMN)
        round_L, which_L, source_L = torch.nonzero(column_RBM >= 0, as_tuple=True)
        target_L = column_RBM[round_L, which_L, source_L]
        triples.append(torch.stack([block.pair_B.to(which_L.device)[which_L], source_L, target_L], dim=1).cpu())
        non_finite_B[block.pair_B] = ~block.finite_B.cpu()
    return torch.cat(triples), non_finite_B


def _match(hidden_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """(triples int64 [L, 3], non-finite bool [B]) by maximum-weight matching, pair by pair."""
    # Only here: most users never ask for it.
    from scipy.optimize import linear_sum_assignment

    triples, non_finite_B = [torch.empty(0, 3, dtype=torch.int64)], torch.zeros(spans.pairs, dtype=torch.bool)
    for block in _blocks(hidden_TD, spans, _ITERMAX):
        non_finite_B[block.pair_B] = ~block.finite_B.cpu()
        similarity_BMN = block.similarity_BMN.cpu().numpy()
        for place, pair in enumerate(block.pair_B.tolist()):
            if non_finite_B[pair]:
                continue
            rows, columns = int(spans.source_length_B[pair]), int(spans.target_length_B[pair])
            # The sum of affinities is largest where that of cosines is: there are as many links in either case.
            links = linear_sum_assignment(similarity_BMN[place, :rows, :columns], maximize=True)
            source_L, target_L = map(torch.from_numpy, links)
            triples.append(torch.stack([torch.full_like(source_L, pair), source_L, target_L], dim=1))
    return torch.cat(triples), non_finite_B


class _Block(NamedTuple):
    """Pairs of like lengths, padded; padding reads the side's first token again, so that its similarities are the pair's."""

    pair_B: Tensor
    similarity_BMN: Tensor  # fp32
    source_real_BM: Tensor
    target_real_BN: Tensor
    finite_B: Tensor


def _blocks(hidden_TD: Tensor, spans: Spans, settings: AlignmentSettings) -> Iterator[_Block]:
    """The similarities of all pairs, by the settings' measure."""
    for pair_B, padded in blocks(spans.source_length_B, spans.target_length_B):
        sides = []
        position_L = torch.arange(padded)
        for start_B, length_B in (spans[:2], spans[2:]):
            real_BL = position_L < length_B[pair_B, None]
            token_BL = start_B[pair_B, None] + torch.where(real_BL, position_L, 0)
            sides.append((hidden_TD[token_BL.to(hidden_TD.device)].float(), real_BL.to(hidden_TD.device)))
        (source_BMD, source_real_BM), (target_BND, target_real_BN) = sides
        similarity_BMN = similarity(source_BMD, target_BND, settings)
        yield _Block(pair_B, similarity_BMN, source_real_BM, target_real_BN, is_finite(similarity_BMN, settings))


def _plans(hidden_TD: Tensor, spans: Spans) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """By blocks of pairs of like lengths, after one iteration of the `clip` cost: (pairs [B], log P fp32 [B, M, N], -inf
    on padding, which rows [B, M] and columns [B, N] are real, which pairs are finite [B])."""
    for pair_B, similarity_BMN, source_real_BM, target_real_BN, finite_B in _blocks(hidden_TD, spans, _ONE_ITERATION):
        work_2BMN = similarity_BMN.new_empty(2, *similarity_BMN.shape)
        log_plan_BMN = transport_plan(
            similarity_BMN, source_real_BM, target_real_BN, finite_B, _ONE_ITERATION, work_2BMN
        )
        yield pair_B, log_plan_BMN, source_real_BM, target_real_BN, finite_B
