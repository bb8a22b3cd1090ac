"""xTune's consistency losses (Zheng et al., ACL 2021): what a model says of an item, and of the same item said otherwise.

Both are Kullback-Leibler divergences whose first distribution is a target without gradient. Knows logits alone.

The release averages over the elements of [items, labels], so that a weight acts as if divided by the number of labels C;
its paper's formula is the mean over items, which is C times as large. The published weights belong to the former.
"""

from __future__ import annotations

from typing import Literal

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


def model_consistency(logits_NC: Tensor, first_stage_NC: Tensor, mean: Mean = "elements") -> Tensor:
    """R2: the divergence from the frozen model of the first stage, on augmented items alone."""
    return divergence(logits_NC, first_stage_NC, mean)
