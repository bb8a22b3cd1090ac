"""DWA, denoising word alignment: each masked token points at its partner in the other sentence (Chi et al., ACL 2021).

The partners are the model's own: optimal transport between the unmasked sides' hidden states at the alignment layer,
filtered into word links (sections 3.1 and 3.2), recomputed every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.batch import Pointers, StreamBatch
from pipeline.model.flops import encoder_forward_flops, pointer_flops
from pipeline.model.heads import PointerHead
from pipeline.objectives.base import Encode, EncoderParts, EncoderSizes, Objective
from sinkhorn_align import AlignmentSettings, align

HEAD = "word_alignment"
IGNORED = -100  # label of a masked token without a partner


class WordAlignment(Objective):
    """Self-labelling and the pointer loss over pairs."""

    def __init__(self, name: str, alignment_layer: int, settings: AlignmentSettings) -> None:
        self.name, self.reads = name, "pairs"
        self.alignment_layer, self.settings = alignment_layer, settings

    def heads(self, encoder: EncoderParts) -> dict[str, Callable[[], nn.Module]]:
        return {HEAD: partial(PointerHead, encoder.config.hidden, encoder.config.init_std)}

    def label(self, encode: Encode, batch: StreamBatch) -> dict[str, Tensor]:
        spans = batch.spans
        assert spans is not None, "word alignment reads pairs"
        hidden_TD = encode(batch.clean, self.alignment_layer)
        batch.links = align(
            hidden_TD,
            spans.source_start_B,
            spans.source_length_B,
            spans.target_start_B,
            spans.target_length_B,
            self.settings,
        )
        return {
            "links": batch.links.count(),
            "pairs": torch.full((), len(spans.source_start_B), device=hidden_TD.device),
            "unalignable_pairs": (batch.links.status_B != 0).sum(),
        }

    def count(self, batch: StreamBatch) -> Tensor:
        return (_partners(batch) >= 0).sum()

    def flops(self, sizes: EncoderSizes, batch: StreamBatch) -> float:
        labelling = encoder_forward_flops(sizes, batch.masked.sequence_lengths, self.alignment_layer)
        return labelling + pointer_flops(sizes, batch.masked.tokens, len(batch.predicted_P))

    def loss(self, encode: Encode, heads: nn.ModuleDict, batch: StreamBatch) -> dict[str, Tensor]:
        assert batch.pointers is not None
        partner_P, hidden_TD = _partners(batch), encode(batch.masked)
        # Masked tokens without a partner are scored too and then left out of the sum: to choose the others first, the host
        # would have to know how many there are, and wait for the device.
        query_PD, key_TD = heads[HEAD](hidden_TD[batch.predicted_P], hidden_TD)
        scores_PL, start_P = _pointer_scores(query_PD, key_TD, batch.pointers)
        label_P = torch.where(partner_P >= 0, partner_P - start_P, IGNORED)
        loss = F.cross_entropy(scores_PL, label_P, ignore_index=IGNORED, reduction="sum")
        return {"loss": loss, "agreement": (scores_PL.detach().argmax(-1) == label_P).sum()}

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {
            **super().report(sums, count),
            "agreement": sums["agreement"] / max(count, 1),
            "links_per_pair": sums["links"] / max(sums["pairs"], 1),
            "unalignable_pairs": sums["unalignable_pairs"],
        }


def _partners(batch: StreamBatch) -> Tensor:
    """The linked token (index into T) of every masked position, −1 where it has none. int64 [P]."""
    assert batch.links is not None, "the batch has not been labelled"
    return batch.links.partner_T[batch.predicted_P].long()


def _pointer_scores(query_PD: Tensor, key_TD: Tensor, pointers: Pointers) -> tuple[Tensor, Tensor]:
    """Scaled scores of each query against the tokens of the sentence opposite its own.

    Returns (scores fp32 [P, L], −inf beyond the sentence's end; index into T of that sentence's first token, int64 [P]).
    Queries are padded per sentence, so that scoring is one batched product over 2B sentences.
    """
    width = key_TD.shape[1]
    place = (pointers.sentence_P, pointers.slot_P)
    sentences = len(pointers.other_start_C)
    padded_CQD = query_PD.new_zeros(sentences, pointers.most_masked, width).index_put(place, query_PD)
    column_L = torch.arange(pointers.longest, device=key_TD.device)
    # An empty sentence keeps one column, or its softmax, which nobody asks for, would have no gradient but NaN.
    inside_CL = column_L < pointers.other_length_C.clamp(min=1)[:, None]
    key_CLD = key_TD[pointers.other_start_C[:, None] + torch.where(inside_CL, column_L, 0)]
    scores_CQL = (padded_CQD @ key_CLD.transpose(1, 2)).float() * width**-0.5
    scores_PL = scores_CQL[place].masked_fill(~inside_CL[pointers.sentence_P], float("-inf"))
    return scores_PL, pointers.other_start_C[pointers.sentence_P]
