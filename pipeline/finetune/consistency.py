"""xTune's consistency losses (Zheng et al., ACL 2021): what a model says of an item, and of the same item said otherwise.

They are Kullback-Leibler divergences whose first distribution is a target without gradient. Knows logits alone.

The release averages over the elements of [items, labels], so that a weight acts as if divided by the number of labels C;
its paper's formula is the mean over items, which is C times as large. The published weights belong to the former. For answers,
which are two distributions over the tokens of a row, start and end, the release too has the mean over rows.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mean = Literal["elements", "items"]
"""`elements`: as released, 1/C of `items`: the mean over items, as the formula has it."""
MEANS: tuple[Mean, ...] = ("elements", "items")


def divergence(logits_NC: Tensor, target_NC: Tensor, mean: Mean = "elements") -> Tensor:
    """KL(stopped target ‖ logits), fp32 []; both are logits, of N > 0 items."""
    target = F.log_softmax(target_NC.detach().float(), dim=-1)
    total = F.kl_div(F.log_softmax(logits_NC.float(), dim=-1), target, reduction="sum", log_target=True)
    return total / (logits_NC.numel() if mean == "elements" else len(logits_NC))


def example_consistency(logits_NC: Tensor, others_NC: Tensor, mean: Mean = "elements") -> Tensor:
    """R1: the divergences of both from each other, summed; each is a target once.

    others_NC: logits of the same items said otherwise.
    """
    return divergence(others_NC, logits_NC, mean) + divergence(logits_NC, others_NC, mean)


def model_consistency(logits_NC: Tensor, first_stage_NC: Tensor, mean: Mean = "elements", hard: bool = False) -> Tensor:
    """R2: the divergence from the frozen model of the first stage, on augmented items alone.

    hard: instead of its distribution the label that it thinks best counts, as a label does; `mean` is then of no effect.
    """
    if hard:
        return F.cross_entropy(logits_NC.float(), first_stage_NC.detach().argmax(dim=-1))
    return divergence(logits_NC, first_stage_NC, mean)


Span = tuple[Tensor, Tensor]
"""Logits [B, L] of a token being the first, and the last, of the answer."""


def answers_agree(said: Span, others: Span, masks: Span, places: Span) -> Tensor:
    """R1 of answers: for start and end the mean over rows and both directions of the divergence, summed over start and end.

    Compared are the probabilities of the tokens that both rows share, and the sum of all others'.

    others: of the same rows said otherwise, [B, M].
    masks: bool [B, L] and [B, M], which are tokens of the rows.
    places: int64 [B, W], where the tokens that they share stand in each; -1 is none. Each row has tokens that are not shared.
    """
    total = said[0].new_zeros((), dtype=torch.float32)
    for logits_BL, others_BM in zip(said, others, strict=True):
        first, second = (
            _at_places(*each) for each in ((logits_BL, masks[0], places[0]), (others_BM, masks[1], places[1]))
        )
        total = total + (_of_rows(first, second) + _of_rows(second, first)) / 2
    return total


def answers_of_model(said: Span, taught: Span, mask_BL: Tensor, hard: bool = False) -> Tensor:
    """R2 of answers: the divergence from the first stage's distributions over the tokens of a row, mean of start and end.

    mask_BL: bool, which are tokens of the rows.
    hard: see `model_consistency`.
    """
    each = []
    for logits_BL, taught_BL in zip(said, taught, strict=True):
        logits, target = (one.float().masked_fill(~mask_BL, _NEVER) for one in (logits_BL, taught_BL.detach()))
        if hard:
            each.append(F.cross_entropy(logits, target.argmax(dim=-1)))
        else:
            each.append(divergence(logits, target, "items"))
    return (each[0] + each[1]) / 2


_NEVER = torch.finfo(torch.float32).min / 4
"""Logit of what is no token: its probability is 0, and 0 times its logarithm too."""


def _at_places(logits_BL: Tensor, mask_BL: Tensor, places_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities [B, 1 + W], of all tokens together that have no place and of those that have; and which there are."""
    log_BL = F.log_softmax(logits_BL.float().masked_fill(~mask_BL, _NEVER), dim=-1)
    there_BW = places_BW >= 0
    at_BW = log_BL.gather(1, places_BW.clamp(min=0))
    placed_BL = torch.zeros_like(mask_BL, dtype=torch.int64).scatter_add(1, places_BW.clamp(min=0), there_BW.long()) > 0
    rest_B1 = log_BL.masked_fill(placed_BL, _NEVER).logsumexp(dim=-1, keepdim=True)
    return torch.cat([rest_B1, at_BW], dim=1), F.pad(there_BW, (1, 0), value=True)


def _of_rows(target: tuple[Tensor, Tensor], logs: tuple[Tensor, Tensor]) -> Tensor:
    """KL(stopped target ‖ logs), the mean over rows."""
    target_BW, there_BW = target[0].detach(), target[1]
    terms_BW = (target_BW.exp() * (target_BW - logs[0])).masked_fill(~there_BW, 0.0)
    return terms_BW.sum() / len(terms_BW)
