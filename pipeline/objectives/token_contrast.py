"""Token contrast: each token is to be nearer to its partner than to every other token of the other sentence.

The two sentences of a pair are encoded apart, as the aligner's `argmax` reads them. The partners are the model's own, found
anew in every step: tokens of which each has the largest cosine for the other (SimAlign's links, Jalili Sabet et al., 2020), at
one layer or at each of several, or links by optimal transport, as DWA's; or they were given with the pairs. The loss is InfoNCE
(van den Oord et al., 2018) over cosines, in both directions; of a token with several partners, as given links have it, it is
that of the sum of their probabilities (MIL-NCE, Miech et al., CVPR 2020), since one of its tokens is enough to find a word.
Partners are found in whole sentences; with a mask rate, tokens are compared as they stand in sentences with blanks, so that
what they mean has to come from around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.views.given_links import GivenLinks
from pipeline.data.views.sides import Sides, SidesToHide
from pipeline.model.flops import encoder_forward_flops, token_contrast_flops
from pipeline.objectives.base import Asked, Encode, Labels, LabelTensors, Loss, Modules, Objective
from pipeline.settings.sizes import EncoderConfig
from sinkhorn_align import AlignmentSettings, align, warm_up
from sinkhorn_align.simalign import ARGMAX

PARTNER = "partner_T"
"""The label: int32 [T], the token (index into T of the sides) that each token is linked to, −1 for none."""
IGNORED = -100  # label of a token without a partner
LossesOf = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(loss fp32 [R], 0 of a token without a partner; whether it has one, bool [R]) of the R tokens of all first sides (0), or of
all second ones (1), by their scores with the other side's, fp32 [R, L], −inf beyond its end."""


class TokenContrast(Objective):
    """Self-labelling and contrast over the sides of pairs. Its loss is divided by its own tokens: no words are predicted."""

    pooled = False

    def __init__(
        self,
        name: str,
        label_layers: Sequence[int],
        layer: int,
        temperature: float,
        mask_rate: float = 0.0,
        settings: AlignmentSettings = ARGMAX,
    ) -> None:
        """
        Args:
            label_layers: whose hidden states are linked, and have to agree; none: links were given with the pairs.
            layer: whose hidden states are contrasted.
            temperature: cosines are divided by it.
            mask_rate: share of the tokens that are hidden in what is contrasted.
            settings: how hidden states are linked.
        """
        self._kind: type[Sides] = SidesToHide if mask_rate else Sides
        given = () if label_layers else (View("pairs", GivenLinks.name),)
        self.name, self.reads = name, (View("pairs", self._kind.name), *given)
        self.label_layers, self.layer, self.temperature = tuple(label_layers), layer, temperature
        self.mask_rate, self.settings = mask_rate, settings

    def compile_kernels(self, sizes: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        if self.label_layers:
            warm_up(sizes.hidden, dtype, device, self.settings)

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        if work == "label":
            return [Asked(self._sides(batch).packed, layer) for layer in self.label_layers]
        return [] if self.mask_rate else [Asked(self._sides(batch).packed, self.layer)]

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        sides = self._sides(batch)
        pairs = torch.full((), sides.spans.pairs, device=sides.start_C.device)
        if not self.label_layers:
            given = batch["pairs"].view(GivenLinks)
            return Labels({}, {"links": torch.full_like(given.linked, len(given.pair_K)), "pairs": pairs})
        first, *others = (align(encode(sides.packed, layer), sides.spans, self.settings) for layer in self.label_layers)
        if not others:
            return Labels({PARTNER: first.partner_T}, {"links": first.count(), "pairs": pairs})
        agrees_T = torch.stack([first.partner_T == other.partner_T for other in others]).all(0)
        partner_T = torch.where(agrees_T, first.partner_T, -1)
        # Mutual argmax has a link at both of its ends.
        return Labels({PARTNER: partner_T}, {"links": (partner_T >= 0).sum() // 2, "pairs": pairs})

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        return (labels[PARTNER] >= 0).sum() if self.label_layers else batch["pairs"].view(GivenLinks).linked

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        sides = self._sides(batch)
        token_CL, inside_CL = sides.grid()
        seen = sides.hidden(self.mask_rate) if isinstance(sides, SidesToHide) else sides.packed
        unit_CLD = F.normalize(encode(seen, self.layer).float(), dim=-1)[token_CL]
        logits_BLL = unit_CLD[0::2] @ unit_CLD[1::2].transpose(1, 2) / self.temperature
        losses_of = self._of_partners(sides, labels) if self.label_layers else _of_links(batch, logits_BLL)
        total, probability = unit_CLD.new_zeros(()), unit_CLD.new_zeros(())
        for side, scores_BLL in enumerate((logits_BLL, logits_BLL.transpose(1, 2))):
            outside_BL = ~inside_CL[1 - side :: 2]
            # An empty sentence keeps one column, or its softmax, which nobody asks for, would have no gradient but NaN.
            outside_BL = outside_BL & (torch.arange(sides.longest, device=outside_BL.device) > 0)
            scores_RL = scores_BLL.masked_fill(outside_BL[:, None], float("-inf")).flatten(0, 1)
            loss_R, is_labelled_R = losses_of(scores_RL, side)
            total = total + loss_R.sum()
            probability += torch.where(is_labelled_R, (-loss_R.detach()).exp(), 0.0).sum()
        return Loss(total, {"probability": probability})

    def _of_partners(self, sides: Sides, labels: LabelTensors) -> LossesOf:
        """Losses of tokens that have one partner, or none."""
        token_CL, inside_CL = sides.grid()
        partner_CL = labels[PARTNER][token_CL].long()
        other_start_C = sides.start_C.view(-1, 2).flip(1).flatten()
        label_CL = torch.where(inside_CL & (partner_CL >= 0), partner_CL - other_start_C[:, None], IGNORED)

        def losses(scores_RL: Tensor, side: int) -> tuple[Tensor, Tensor]:
            label_R = label_CL[side::2].flatten()
            loss_R = F.cross_entropy(scores_RL, label_R, ignore_index=IGNORED, reduction="none")
            return loss_R, label_R != IGNORED

        return losses

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


def _of_links(batch: MicroBatch, logits_BLL: Tensor) -> LossesOf:
    """Losses of tokens that have any number of partners: of all of these together, −log Σ p."""
    given = batch["pairs"].view(GivenLinks)
    is_linked_BLL = torch.zeros_like(logits_BLL, dtype=torch.bool)
    is_linked_BLL[given.pair_K, given.first_K, given.second_K] = True

    def losses(scores_RL: Tensor, side: int) -> tuple[Tensor, Tensor]:
        partners_RL = (is_linked_BLL.transpose(1, 2) if side else is_linked_BLL).flatten(0, 1)
        has_any_R = partners_RL.any(-1)
        # A token without a partner keeps all columns, as a sum over none would have no gradient but NaN.
        kept_RL = partners_RL | ~has_any_R[:, None]
        found_R = scores_RL.masked_fill(~kept_RL, float("-inf")).logsumexp(-1)
        return torch.where(has_any_R, scores_RL.logsumexp(-1) - found_R, 0.0), has_any_R

    return losses
