"""Token contrast: each token is to be nearer to its partner than to every other token of the other sentence.

The two sentences of a pair are encoded apart, as the aligner's `argmax` reads them. The partners are the model's own, found
anew in every step: tokens of which each has the largest cosine for the other (SimAlign's links, Jalili Sabet et al., 2020). The
loss is InfoNCE (van den Oord et al., 2018) over cosines, in both directions. Partners are found in whole sentences; with a
mask rate, tokens are compared as they stand in sentences with blanks, so that what they mean has to come from around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.views.sides import Sides, SidesToHide
from pipeline.model.flops import encoder_forward_flops, token_contrast_flops
from pipeline.objectives.base import Asked, Encode, Labels, LabelTensors, Loss, Modules, Objective
from pipeline.settings.sizes import EncoderConfig
from sinkhorn_align import align
from sinkhorn_align.simalign import ARGMAX

PARTNER = "partner_T"
"""The label: int32 [T], the token (index into T of the sides) that each token is linked to, −1 for none."""
IGNORED = -100  # label of a token without a partner


class TokenContrast(Objective):
    """Self-labelling and contrast over the sides of pairs. Its loss is divided by its own tokens: no words are predicted."""

    pooled = False

    def __init__(self, name: str, label_layer: int, layer: int, temperature: float, mask_rate: float = 0.0) -> None:
        """label_layer: whose hidden states are linked; layer: whose are contrasted; temperature: cosines are divided by it."""
        self._kind: type[Sides] = SidesToHide if mask_rate else Sides
        self.name, self.reads = name, (View("pairs", self._kind.name),)
        self.label_layer, self.layer, self.temperature = label_layer, layer, temperature
        self.mask_rate = mask_rate

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        if work == "label":
            return [Asked(self._sides(batch).packed, self.label_layer)]
        return [] if self.mask_rate else [Asked(self._sides(batch).packed, self.layer)]

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        sides = self._sides(batch)
        hidden_TD = encode(sides.packed, self.label_layer)
        links = align(hidden_TD, sides.spans, ARGMAX)
        pairs = torch.full((), sides.spans.pairs, device=hidden_TD.device)
        return Labels({PARTNER: links.partner_T}, {"links": links.count(), "pairs": pairs})

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        return (labels[PARTNER] >= 0).sum()

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        sides = self._sides(batch)
        token_CL, inside_CL = sides.grid()
        seen = sides.hidden(self.mask_rate) if isinstance(sides, SidesToHide) else sides.packed
        unit_CLD = F.normalize(encode(seen, self.layer).float(), dim=-1)[token_CL]
        logits_BLL = unit_CLD[0::2] @ unit_CLD[1::2].transpose(1, 2) / self.temperature
        partner_CL = labels[PARTNER][token_CL].long()
        other_start_C = sides.start_C.view(-1, 2).flip(1).flatten()
        label_CL = torch.where(inside_CL & (partner_CL >= 0), partner_CL - other_start_C[:, None], IGNORED)
        total, probability = unit_CLD.new_zeros(()), unit_CLD.new_zeros(())
        for side, scores_BLL in enumerate((logits_BLL, logits_BLL.transpose(1, 2))):
            outside_BL = ~inside_CL[1 - side :: 2]
            # An empty sentence keeps one column, or its softmax, which nobody asks for, would have no gradient but NaN.
            outside_BL = outside_BL & (torch.arange(sides.longest, device=outside_BL.device) > 0)
            scores_RL = scores_BLL.masked_fill(outside_BL[:, None], float("-inf")).flatten(0, 1)
            label_R = label_CL[side::2].flatten()
            loss_R = F.cross_entropy(scores_RL, label_R, ignore_index=IGNORED, reduction="none")
            total = total + loss_R.sum()
            probability += torch.where(label_R != IGNORED, (-loss_R.detach()).exp(), 0.0).sum()
        return Loss(total, {"probability": probability})

    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        length_C = self._sides(batch).length_C.numpy()
        own = 3 * encoder_forward_flops(sizes, length_C + 2, self.layer) if self.mask_rate else 0.0
        return own + token_contrast_flops(sizes, length_C)

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {
            **super().report(sums, count),
            "probability": sums["probability"] / max(count, 1),
            "links_per_pair": sums["links"] / max(sums["pairs"], 1),
        }

    def _sides(self, batch: MicroBatch) -> Sides:
        return batch["pairs"].view(self._kind)
