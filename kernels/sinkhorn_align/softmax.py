"""Links by thresholds on probabilities, beside `align`: the extraction of awesome-align, over cosines.

Knows hidden states and spans, as `align` does; the measure of similarity is the batched backend's.

Source: Dou and Neubig, 2021, "Word Alignment by Fine-tuning Embeddings on Parallel Corpora", in our words. There probabilities
are of dot products and the threshold is 0.001; cosines over a temperature are what contrast trains.
"""

import torch
from torch import Tensor

from sinkhorn_align.cpu.batched import similarity_blocks
from sinkhorn_align.settings import AlignmentSettings
from sinkhorn_align.spans import Spans

TEMPERATURE = 0.05
THRESHOLD = 0.3
"""What both probabilities of a link exceed."""

_COSINE = AlignmentSettings(cost="exp", similarity="cosine")


@torch.no_grad()
def softmax_links(hidden_TD: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Link tokens that choose each other with a probability above `THRESHOLD`: softmax of cosine / `TEMPERATURE`, over the
    row's cells and over the column's. A token may have several links, or none. Arguments, answer and errors are those of
    `released.released_links`.
    """
    spans = spans.checked(len(hidden_TD))
    triples, non_finite_B = [torch.empty(0, 3, dtype=torch.int64)], torch.zeros(spans.pairs, dtype=torch.bool)
    for pair_B, similarity_BMN, real_BM, real_BN, finite_B in similarity_blocks(hidden_TD, spans, _COSINE):
        real_BMN = real_BM[:, :, None] & real_BN[:, None, :] & finite_B[:, None, None]
        # Padding is far below every cosine and still a number, so that its own rows have no NaN.
        logits_BMN = (similarity_BMN / TEMPERATURE).masked_fill_(~real_BMN, torch.finfo(torch.float32).min)
        chosen_BMN = (logits_BMN.softmax(2) > THRESHOLD) & (logits_BMN.softmax(1) > THRESHOLD) & real_BMN
        which_L, source_L, target_L = torch.nonzero(chosen_BMN, as_tuple=True)
        triples.append(torch.stack([pair_B.to(which_L.device)[which_L], source_L, target_L], dim=1).cpu())
        non_finite_B[pair_B] = ~finite_B.cpu()
    return torch.cat(triples), non_finite_B
