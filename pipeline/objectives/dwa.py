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

from pipeline.batch import Spans, StreamBatch
from pipeline.flops import encoder_forward_flops
from pipeline.objectives.base import Encode, EncoderParts, EncoderSizes, Objective
from sinkhorn_align import AlignmentSettings, align

HEAD = "word_alignment"


class PointerHead(nn.Module):
    """The two projections of the pointer network: queries of masked tokens, keys of the other sentence's tokens."""

    def __init__(self, width: int, init_std: float) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=init_std)
            nn.init.zeros_(linear.bias)

    def forward(self, query_QD: Tensor, key_TD: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(query_QD), self.key(key_TD)


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
            "links": (batch.links.links_RT >= 0).sum(),
            "pairs": torch.tensor(len(spans.source_start_B), device=hidden_TD.device),
            "unalignable_pairs": (batch.links.status_B != 0).sum(),
        }

    def count(self, batch: StreamBatch) -> Tensor:
        return (_partners(batch) >= 0).sum()

    def flops(self, sizes: EncoderSizes, batch: StreamBatch) -> float:
        labelling = encoder_forward_flops(sizes, batch.masked, self.alignment_layer)
        # Keys are made of every token, queries of at most every masked one.
        return labelling + 6.0 * (batch.masked.tokens + len(batch.predicted_P)) * sizes.hidden**2

    def loss(self, encode: Encode, heads: nn.ModuleDict, batch: StreamBatch) -> dict[str, Tensor]:
        assert batch.spans is not None
        partner_P = _partners(batch)
        linked = partner_P >= 0
        position_Q, partner_Q = batch.predicted_P[linked], partner_P[linked]
        hidden_TD = encode(batch.masked)
        query_QD, key_TD = heads[HEAD](hidden_TD[position_Q], hidden_TD)
        scores_QL, start_Q = _pointer_scores(query_QD, key_TD, position_Q, batch.spans)
        label_Q = partner_Q - start_Q
        loss = F.cross_entropy(scores_QL, label_Q, reduction="sum")
        return {"loss": loss, "agreement": (scores_QL.detach().argmax(-1) == label_Q).sum()}

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


def _pointer_scores(query_QD: Tensor, key_TD: Tensor, position_Q: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
    """Scaled scores of each query against the tokens of the sentence opposite its own.

    Returns (scores fp32 [Q, L], −inf beyond the sentence's end; index into T of that sentence's first token, int64 [Q]).
    Queries are padded per sentence, so that scoring is one batched product over 2B sentences.
    """
    width = key_TD.shape[1]
    on_host_3C = torch.stack(
        [
            torch.cat([spans.source_start_B, spans.target_start_B]),
            torch.cat([spans.target_start_B, spans.source_start_B]),
            torch.cat([spans.target_length_B, spans.source_length_B]),
        ]
    )
    longest = int(on_host_3C[2].max())
    own_start_C, other_start_C, other_length_C = on_host_3C.to(key_TD.device, torch.int64, non_blocking=True)
    # Sentences by where they start; each query belongs to the last one that starts at or before it.
    by_start_C = own_start_C.argsort()
    sentence_Q = by_start_C[torch.searchsorted(own_start_C[by_start_C], position_Q, right=True) - 1]

    order_Q = sentence_Q.argsort(stable=True)
    queries_C = torch.bincount(sentence_Q, minlength=len(own_start_C))
    first_C = queries_C.cumsum(0) - queries_C
    slot_Q = torch.empty_like(order_Q)
    slot_Q[order_Q] = torch.arange(len(order_Q), device=order_Q.device) - first_C[sentence_Q[order_Q]]
    most_queries = int(queries_C.max())

    padded_CQD = query_QD.new_zeros(len(own_start_C), most_queries, width).index_put((sentence_Q, slot_Q), query_QD)
    column_L = torch.arange(longest, device=key_TD.device)
    inside_CL = column_L < other_length_C[:, None]
    key_CLD = key_TD[other_start_C[:, None] + torch.where(inside_CL, column_L, 0)]
    scores_CQL = (padded_CQD @ key_CLD.transpose(1, 2)).float() * width**-0.5
    scores_QL = scores_CQL[sentence_Q, slot_Q].masked_fill(~inside_CL[sentence_Q], float("-inf"))
    return scores_QL, other_start_C[sentence_Q]
