"""From hidden states of a packed batch to links between tokens: the methods that a word aligner can choose.

Knows flat tokens and the spans of pairs; nothing of words, tokenizers or models.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.settings.align_options import METHODS, Method
from sinkhorn_align import AlignmentSettings, PairStatus, Spans, align
from sinkhorn_align.released import released_links
from sinkhorn_align.simalign import ARGMAX, itermax_links, match_links
from sinkhorn_align.softmax import softmax_links


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
    """Link the tokens of every pair; spans lie on the CPU.

    `ot-filter`: the labels of pretraining, optimal transport and iterative filtering by `settings`.
    `ot`: the word aligner released with XLM-Align, see `released_links`.
    `argmax`: the cosine is the largest of both its row and its column, SimAlign's (Jalili Sabet et al., 2020) `inter`.
    `itermax`: SimAlign's, `argmax` and a second round of it: there a link's two tokens may have one link, but not both, and
        such cells count 0.9 of their affinity, (1 + cosine) / 2. Finds more links.
    `match`: SimAlign's, the one-to-one links, as many as the shorter side has tokens, with the largest sum of affinities.
    `softmax`: awesome-align's (Dou and Neubig, 2021) over cosines: the tokens choose each other with a probability above a
        threshold, in both directions, see `softmax_links`.
    """
    if method == "ot":
        triple_L3, non_finite_B = released_links(hidden_TD, spans)
    elif method == "itermax":
        triple_L3, non_finite_B = itermax_links(hidden_TD, spans)
    elif method == "match":
        triple_L3, non_finite_B = match_links(hidden_TD, spans)
    elif method == "softmax":
        triple_L3, non_finite_B = softmax_links(hidden_TD, spans)
    else:
        found = align(hidden_TD, spans, settings if method == "ot-filter" else ARGMAX)
        triple_L3 = found.local(spans).cpu()
        non_finite_B = found.status_B.cpu() == int(PairStatus.NON_FINITE)
    score_L = None
    if scored:
        pair_L, source_L, target_L = triple_L3.T
        ends = (spans.source_start_B[pair_L] + source_L, spans.target_start_B[pair_L] + target_L)
        source_LD, target_LD = (hidden_TD[token_L.to(hidden_TD.device)].float() for token_L in ends)
        score_L = F.cosine_similarity(source_LD, target_LD).cpu()
    return TokenLinks(triple_L3, score_L, non_finite_B)
