"""Heads on the encoder: what pretraining predicts with, and an export or an evaluation reads.

Know hidden states and the word embedding; nothing of batches or of what is trained for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.linear import Linear
from pipeline.model.linear_cross_entropy import linear_cross_entropy

MASKED_LM_HEAD = "masked_lm"
"""The masked-LM head's name among a model's heads, and so in its checkpoints."""


class MaskedLMHead(nn.Module):
    """XLM-R's prediction head: dense, GELU, norm, then the word embedding transposed, plus a bias."""

    def __init__(self, word: nn.Embedding, norm_eps: float, init_std: float) -> None:
        super().__init__()
        vocab_size, width = word.weight.shape
        self.dense = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.weight = word.weight  # tied
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.dense.weight, std=init_std)
        nn.init.zeros_(self.dense.bias)

    def transform(self, hidden_PD: Tensor) -> Tensor:
        """What the word embedding is multiplied with, [P, D]."""
        return self.norm(F.gelu(self.dense(hidden_PD)))

    def forward(self, hidden_PD: Tensor, target_P: Tensor) -> tuple[Tensor, Tensor]:
        """(summed cross-entropy, fp32 scalar; correct predictions, int64 scalar) of the target ids."""
        return linear_cross_entropy(self.transform(hidden_PD), self.weight, self.bias, target_P)


class PointerHead(nn.Module):
    """The two projections of the pointer network: queries of masked tokens, keys of the other sentence's tokens."""

    def __init__(self, width: int, init_std: float) -> None:
        super().__init__()
        self.query, self.key = Linear(width, width), Linear(width, width)
        for linear in (self.query, self.key):
            nn.init.normal_(linear.weight, std=init_std)
            nn.init.zeros_(linear.bias)

    def forward(self, query_QD: Tensor, key_TD: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(query_QD), self.key(key_TD)
