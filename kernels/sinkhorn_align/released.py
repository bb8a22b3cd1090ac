"""The word aligner that was released with XLM-Align, beside `align`, which makes the labels of its pretraining.

Knows hidden states and spans, as `align` does; the measure of similarity and the Sinkhorn steps are the batched backend's.

Source: the word aligner of the XLM-Align repository (Chi et al., 2021, "Improving Pretrained Cross-Lingual Language Models
via Self-Labeled Word Alignment"), in our words.
"""

import torch
from torch import Tensor

from sinkhorn_align.cpu.batched import first_largest, similarity_blocks, transport_plan
from sinkhorn_align.settings import AlignmentSettings
from sinkhorn_align.spans import Spans

_ONE_ITERATION = AlignmentSettings(sinkhorn_iterations=1, filter_rounds=1)


@torch.no_grad()
def released_links(hidden_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Link the source and target tokens of every pair as the released word aligner does.

    Kernel max(S, 1e-6), two Sinkhorn iterations, columns first; a link is the largest of its row in the last plan and
    the largest of its column in the plan before the last row step. As that step scales whole rows, both are asked of
    the plan after three half-steps. There is no filtering. (The released code's floor fills a copy, so that it has no
    effect there; where every similarity is positive, as nearly all are, the links are the same.)

    Args:
        hidden_TD: hidden states of a packed or padded batch, flattened to [T, D], of any floating-point dtype; similarities
            are fp32.
        spans: where the sides of the B pairs lie in the flat batch; int32 or int64 [B] vectors.

    Returns:
        The links, int64 [L, 3], as (pair, source token, target token), tokens counted from the start of their side; and which
        pairs, bool [B], have a similarity that is no number within range, and so no links. Both on the CPU. A pair with an
        empty side has no links.

    Raises:
        ValueError: spans do not fit `hidden_TD`.
    """
    spans = spans.checked(len(hidden_TD))
    triples, non_finite_B = [torch.empty(0, 3, dtype=torch.int64)], torch.zeros(spans.pairs, dtype=torch.bool)
    for pair_B, similarity_BMN, real_BM, real_BN, finite_B in similarity_blocks(hidden_TD, spans, _ONE_ITERATION):
        work_2BMN = similarity_BMN.new_empty(2, *similarity_BMN.shape)
        log_plan_BMN = transport_plan(similarity_BMN, real_BM, real_BN, finite_B, _ONE_ITERATION, work_2BMN)
        row_BN = first_largest(log_plan_BMN, 1, work_2BMN[0])
        column_mass_BN = torch.where(real_BN, torch.logsumexp(log_plan_BMN, dim=1), 0.0)
        column_BM = first_largest(log_plan_BMN - column_mass_BN[:, None, :], 2, work_2BMN[0])
        position_M = torch.arange(column_BM.shape[1], device=column_BM.device)
        mutual_BM = (row_BN.gather(1, column_BM) == position_M) & real_BM & finite_B[:, None]
        which_L, source_L = torch.nonzero(mutual_BM, as_tuple=True)
        triple_L3 = torch.stack([pair_B.to(which_L.device)[which_L], source_L, column_BM[which_L, source_L]], dim=1)
        triples.append(triple_L3.cpu())
        non_finite_B[pair_B] = ~finite_B.cpu()
    return torch.cat(triples), non_finite_B
