"""SimAlign's methods, beside `align`: links of cosines alone, by iterated argmax or by matching.

Knows hidden states and spans, as `align` does; the measure of similarity and the filter are the batched backend's. SimAlign's
third method, a single mutual argmax, is `align` with the settings `ARGMAX`.

Source: Jalili Sabet et al., 2020, "SimAlign: High Quality Word Alignments Without Parallel Training Data Using Static and
Contextualized Embeddings", in our words.
"""

import torch
from torch import Tensor

from sinkhorn_align.cpu.batched import filter_plan, similarity_blocks
from sinkhorn_align.settings import AlignmentSettings
from sinkhorn_align.spans import Spans

ARGMAX = AlignmentSettings(cost="exp", similarity="cosine", sinkhorn_iterations=0, filter_rounds=1)
"""A link's cosine is the largest of both its row and its column."""

_ITERMAX = AlignmentSettings(cost="exp", similarity="cosine", sinkhorn_iterations=0, filter_rounds=2, discount=0.9)
_SMALLEST_AFFINITY = 1e-12
"""What an affinity is at least, so that it has a logarithm: that of two hidden states in opposite directions is 0."""


@torch.no_grad()
def itermax_links(hidden_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Link tokens by two rounds of mutual argmax, SimAlign's `itermax`.

    In the second round a link's two tokens may have one link, but not both, and such cells count 0.9 of their affinity,
    (1 + cosine) / 2. Arguments, answer and errors are those of `released.released_links`.
    """
    spans = spans.checked(len(hidden_TD))
    triples, non_finite_B = [torch.empty(0, 3, dtype=torch.int64)], torch.zeros(spans.pairs, dtype=torch.bool)
    for pair_B, similarity_BMN, real_BM, real_BN, finite_B in similarity_blocks(hidden_TD, spans, _ITERMAX):
        log_affinity_BMN = ((1 + similarity_BMN) / 2).clamp_(min=_SMALLEST_AFFINITY).log_()
        filled_BM, filled_BN = real_BM & finite_B[:, None], real_BN & finite_B[:, None]
        log_affinity_BMN.masked_fill_(~(filled_BM[:, :, None] & filled_BN[:, None, :]), float("-inf"))
        work_2BMN = log_affinity_BMN.new_empty(2, *log_affinity_BMN.shape)
        column_RBM = filter_plan(log_affinity_BMN, filled_BM, filled_BN, _ITERMAX, work_2BMN)
        round_L, which_L, source_L = torch.nonzero(column_RBM >= 0, as_tuple=True)
        target_L = column_RBM[round_L, which_L, source_L]
        triples.append(torch.stack([pair_B.to(which_L.device)[which_L], source_L, target_L], dim=1).cpu())
        non_finite_B[pair_B] = ~finite_B.cpu()
    return torch.cat(triples), non_finite_B


@torch.no_grad()
def match_links(hidden_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Link tokens by maximum-weight matching, SimAlign's `match`, pair by pair on the CPU.

    The links are one to one, as many as the shorter side has tokens, with the largest sum of affinities. Arguments, answer
    and errors are those of `released.released_links`.
    """
    # Only here: most users never ask for it.
    from scipy.optimize import linear_sum_assignment

    spans = spans.checked(len(hidden_TD))
    triples, non_finite_B = [torch.empty(0, 3, dtype=torch.int64)], torch.zeros(spans.pairs, dtype=torch.bool)
    for block in similarity_blocks(hidden_TD, spans, _ITERMAX):
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
