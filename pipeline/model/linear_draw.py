"""Words drawn from the softmax of a linear layer over a large vocabulary, in chunks of rows; no generator has any state.

By the inverse of the distribution function, one given number a row. Shares are rounded to whole numbers of a fixed size first:
sums of these are exact in any order, so that a row's word depends on its logits and its number alone, on every device.
`torch.multinomial` would draw from a generator whose numbers depend on the rank and on the shape. Knows neither masks nor
models.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.linear import linear

LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_CPU = 2**28, 2**25
WHOLE = 2.0**40
"""The likeliest word's share of a row, as a whole number: of 2**22 words a sum is below 2**63, and a word is left out that is
less than 2**-41 as likely as that one, which is below what fp32 tells apart."""
BLOCK = 512
"""Words of a row whose shares are summed before they are searched: one by one only those of one block are."""


def linear_draw(
    input_PD: Tensor, weight_VD: Tensor, bias_V: Tensor, uniform_P: Tensor, logits_at_once: int | None = None
) -> Tensor:
    """For each row the word whose part of the softmax of `input @ weight.T + bias` its number falls into; int64 [P].

    input_PD, weight_VD, bias_V: one floating dtype, P may be 0; uniform_P: float64 in [0, 1). Shares are taken in fp32. At most
    half of `logits_at_once` logits (at least one row's) are in memory at a time, once in the dtype, in fp32 and in int64; by
    default of 2**25 on the CPU, else of 2**28. Not differentiable. Where logits are not finite, some word of the vocabulary.
    """
    default = LOGITS_AT_ONCE_ON_CPU if input_PD.device.type == "cpu" else LOGITS_AT_ONCE
    rows = max((logits_at_once or default) // 2 // len(weight_VD), 1)
    drawn = [
        draw(linear(input_PD[first : first + rows], weight_VD, bias_V), uniform_P[first : first + rows])
        for first in range(0, len(input_PD), rows)
    ]
    return torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.long, device=input_PD.device)


def draw(logits_CV: Tensor, uniform_C: Tensor) -> Tensor:
    """The same of logits; int64 [C]."""
    logits_CV = logits_CV.float()
    words = logits_CV.shape[1]
    share_CV = (logits_CV - logits_CV.amax(dim=1, keepdim=True)).exp_().mul_(WHOLE).round_()
    share_CKB = F.pad(share_CV, (0, -words % BLOCK)).long().unflatten(1, (-1, BLOCK))
    until_CK = share_CKB.sum(dim=2).cumsum(dim=1)
    total_C1 = until_CK[:, -1:]
    # A sum of more than 53 bits is rounded in float64, maybe up.
    wanted_C1 = torch.minimum((uniform_C[:, None] * total_C1).long(), total_C1 - 1)
    block_C1 = _first_beyond(until_CK, wanted_C1)
    share_CB = share_CKB.gather(1, block_C1[:, :, None].expand(-1, -1, BLOCK)).squeeze(1)
    before_C1 = until_CK.gather(1, block_C1) - share_CB.sum(dim=1, keepdim=True)
    place_C1 = _first_beyond(share_CB.cumsum(dim=1), wanted_C1 - before_C1)
    return (block_C1 * BLOCK + place_C1).squeeze(1).clamp(max=words - 1)


def _first_beyond(until_CN: Tensor, wanted_C1: Tensor) -> Tensor:
    """The first place of each row whose sum is above what is wanted: what it adds is more than nothing. int64 [C, 1]."""
    return torch.searchsorted(until_CN, wanted_C1, right=True).clamp(max=until_CN.shape[1] - 1)
