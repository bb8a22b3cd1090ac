"""DWA, denoising word alignment: each masked token points at its partner in the other sentence (Chi et al., ACL 2021).

The partners are the model's own: optimal transport between the unmasked sides' hidden states at the alignment layer,
filtered into word links (sections 3.1 and 3.2), recomputed every step. As published both sides are in one sequence; here they
may be encoded apart for that, as the aligner's `separate` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.packing import Packed
from pipeline.data.views.masked_tokens import MaskedTokens, Pointers
from pipeline.data.views.sides import Sides
from pipeline.model.flops import pointer_flops
from pipeline.model.heads import PointerHead
from pipeline.model.linear import wide_scores
from pipeline.objectives.base import (
    Asked,
    Encode,
    Labels,
    LabelTensors,
    Loss,
    Modules,
    Objective,
    Parts,
    Trained,
)
from pipeline.settings.align_options import Encoding
from pipeline.settings.sizes import EncoderConfig
from sinkhorn_align import AlignmentSettings, Links, Spans, align, warm_up

HEAD = "word_alignment"
PARTNER = "partner_T"
"""The label: int32 [T], the token (index into T) that each token of the pairs is linked to, −1 for none."""
IGNORED = -1  # label of a masked token without a partner, as the partner is; no column has it


class WordAlignment(Objective):
    """Self-labelling and the pointer loss over pairs."""

    def __init__(
        self, name: str, alignment_layer: int, settings: AlignmentSettings, label_encoding: Encoding = "joint"
    ) -> None:
        """label_encoding: whether labels come from hidden states of a pair's sides in one sequence, or of each apart."""
        self._apart = label_encoding == "separate"
        sides = (View("pairs", Sides.name),) if self._apart else ()
        self.name, self.reads = name, (View("pairs", MaskedTokens.name), *sides)
        self.alignment_layer, self.settings = alignment_layer, settings

    def modules(self, parts: Parts) -> dict[str, Trained]:
        sizes = parts.encoder.config
        return {HEAD: Trained(partial(PointerHead, sizes.hidden, sizes.init_std))}

    def compile_kernels(self, sizes: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        warm_up(sizes.hidden, dtype, device, self.settings)

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        if work == "label":
            return [Asked(self._labelled(batch)[0], self.alignment_layer)]
        return [Asked(batch["pairs"].view(MaskedTokens).packed)]

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        packed, spans = self._labelled(batch)
        return self._labels(align(encode(packed, self.alignment_layer), spans, self.settings), batch)

    def label_all(self, encode: Encode, modules: Modules, batches: Sequence[MicroBatch]) -> list[Labels]:
        if len(batches) == 1:
            return super().label_all(encode, modules, batches)
        packed, spans = zip(*map(self._labelled, batches), strict=True)
        hidden = [encode(one, self.alignment_layer) for one in packed]
        found = align_together(hidden, spans, self.settings)
        return [self._labels(links, batch) for links, batch in zip(found, batches, strict=True)]

    def _labelled(self, batch: MicroBatch) -> tuple[Packed, Spans]:
        """What is encoded to label the words of pairs, and where their sides lie in it."""
        if self._apart:
            sides = batch["pairs"].view(Sides)
            return sides.packed, sides.spans
        spans = batch["pairs"].spans
        assert spans is not None, "word alignment reads pairs"
        return batch["pairs"].clean, spans

    def _labels(self, links: Links, batch: MicroBatch) -> Labels:
        partner_T = links.partner_T
        metrics = {
            "links": links.count(),
            "pairs": torch.full((), len(links.status_B), device=partner_T.device),
            "unalignable_pairs": (links.status_B != 0).sum(),
        }
        if self._apart:
            partner_T = partners_in_pairs(partner_T, batch["pairs"].view(Sides), batch["pairs"].clean.tokens)
        return Labels({PARTNER: partner_T}, metrics)

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        return (_partners(batch, labels) >= 0).sum()

    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        return pointer_flops(sizes, batch["pairs"].clean.tokens, len(batch["pairs"].view(MaskedTokens).predicted_P))

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        masked = batch["pairs"].view(MaskedTokens)
        assert masked.pointers is not None
        hidden_TD = encode(masked.packed)
        # Masked tokens without a partner are scored too and then left out of the sum: to choose the others first, the host
        # would have to know how many there are, and wait for the device.
        query_PD, key_TD = modules[HEAD](encode.rows(masked.packed, masked.predicted_P), hidden_TD)
        scores_PL = _pointer_scores(query_PD, key_TD, masked.pointers)
        partner_P = _partners(batch, labels)
        label_P = (partner_P - masked.pointers.start_P).clamp(min=IGNORED)
        loss = F.cross_entropy(scores_PL, label_P, ignore_index=IGNORED, reduction="sum")
        return Loss(loss, {"agreement": (scores_PL.detach().argmax(-1) == label_P).sum()})

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {
            **super().report(sums, count),
            "agreement": sums["agreement"] / max(count, 1),
            "links_per_pair": sums["links"] / max(sums["pairs"], 1),
            "unalignable_pairs": sums["unalignable_pairs"],
        }


def partners_in_pairs(partner_T: Tensor, sides: Sides, tokens: int) -> Tensor:
    """Partners in pairs as one sequence each, of those found in their sides: an index into T for each token, −1 for none.

    tokens: T of the pairs. Target sides have a beginning of their own, which pairs lack; all else lies in the same order.
    """
    beginning_B = sides.start_C[1::2] - 1
    of_pair_B = beginning_B - torch.arange(len(beginning_B), device=beginning_B.device)
    token_T = torch.arange(tokens, device=partner_T.device)
    found_T = partner_T[token_T + torch.searchsorted(of_pair_B, token_T, right=True)].long()
    in_pairs_T = found_T - torch.searchsorted(beginning_B, found_T.clamp(min=0))
    return torch.where(found_T >= 0, in_pairs_T, -1).to(partner_T.dtype)


def align_together(hidden: Sequence[Tensor], spans: Sequence[Spans], settings: AlignmentSettings) -> list[Links]:
    """The links of several flat batches by one call: those of a pair never depend on its neighbours. hidden: [T, D] of each."""
    tokens = [len(hidden_TD) for hidden_TD in hidden]
    starts = [sum(tokens[:number]) for number in range(len(tokens))]
    moved = [
        Spans(one.source_start_B + start, one.source_length_B, one.target_start_B + start, one.target_length_B)
        for one, start in zip(spans, starts, strict=True)
    ]
    links = align(torch.cat(list(hidden)), Spans(*map(torch.cat, zip(*moved, strict=True))), settings)
    parts = zip(
        links.links_RT.split(tokens, dim=1),
        links.partner_T.split(tokens),
        links.score_T.split(tokens),
        links.status_B.split([one.pairs for one in spans]),
        strict=True,
    )

    def within(index: Tensor, start: int) -> Tensor:
        return torch.where(index >= 0, index - start, index)

    return [
        Links(within(links_RT, start), within(partner_T, start), score_T, status_B)
        for (links_RT, partner_T, score_T, status_B), start in zip(parts, starts, strict=True)
    ]


def _partners(batch: MicroBatch, labels: LabelTensors) -> Tensor:
    """The linked token (index into T) of every masked position, −1 where it has none. int32 [P]."""
    return labels[PARTNER][batch["pairs"].view(MaskedTokens).predicted_P]


def _pointer_scores(query_PD: Tensor, key_TD: Tensor, pointers: Pointers) -> Tensor:
    """Scaled scores of each query against the tokens of the sentence opposite its own, fp32 [P, L]; −inf beyond its end.

    Queries are padded per sentence, so that scoring is one batched product over 2B sentences.
    """
    width = key_TD.shape[1]
    place = (pointers.sentence_P, pointers.slot_P)
    padded_CQD = query_PD.new_zeros(len(pointers.key_CL), pointers.most_masked, width).index_put(place, query_PD)
    scores_CQL = wide_scores(padded_CQD, key_TD[pointers.key_CL]) * width**-0.5
    return scores_CQL[place].masked_fill(pointers.outside_PL, float("-inf"))
