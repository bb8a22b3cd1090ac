"""Heads on the encoder: what pretraining predicts with, and an export or an evaluation reads.

Know hidden states and the word embedding; nothing of batches or of what is trained for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.linear import Linear, linear
from pipeline.model.linear_cross_entropy import linear_cross_entropy, smoothed_cross_entropy
from pipeline.model.linear_draw import linear_draw

MASKED_LM_HEAD = "masked_lm"
"""The masked-LM head's name among a model's heads, and so in its checkpoints."""


class WordHead(nn.Module):
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


class MaskedLMHead(WordHead):
    """Predicts the words behind blanks."""

    def forward(self, hidden_PD: Tensor, target_P: Tensor, groups: Sequence[int] = ()) -> tuple[Tensor, ...]:
        """(summed cross-entropy, fp32 scalar; correct predictions, int64 scalar) of the target ids.

        groups: rows of each of several groups; both of each, and one gradient for all: see `linear_cross_entropy`.
        """
        return linear_cross_entropy(self.transform(hidden_PD), self.weight, self.bias, target_P, groups=groups)


class DrawingHead(MaskedLMHead):
    """A masked-LM head that draws words as well. Both are its own call, for which ZeRO-3 brings the word embedding."""

    def forward(
        self, hidden_PD: Tensor, target_P: Tensor, groups: Sequence[int] = (), uniform_P: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """As `MaskedLMHead`; or with numbers of [0, 1), float64, (words drawn by them, int64 [P]; how many are the target)."""
        if uniform_P is None:
            return super().forward(hidden_PD, target_P, groups)
        drawn_P = linear_draw(self.transform(hidden_PD), self.weight, self.bias, uniform_P)
        return drawn_P, (drawn_P == target_P).sum()


class WritingHead(WordHead):
    """Predicts what a decoder writes next."""

    def forward(self, hidden_PD: Tensor, target_P: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """(label-smoothed cross-entropy, negative log-likelihood, correct predictions) of the ids: `smoothed_cross_entropy`."""
        return smoothed_cross_entropy(self.transform(hidden_PD), self.weight, self.bias, target_P, smoothing)

    def logits(self, hidden_PD: Tensor) -> Tensor:
        """[P, V]; not at ZeRO-3, which brings weights for `forward` alone."""
        return linear(self.transform(hidden_PD), self.weight, self.bias)


class DetectionHead(nn.Module):
    """Tells replaced tokens from original ones: dense, GELU, one number a token (Clark et al., ICLR 2020)."""

    def __init__(self, width: int, init_std: float) -> None:
        super().__init__()
        self.dense, self.out = Linear(width, width), Linear(width, 1)
        for layer in (self.dense, self.out):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """Logits [T] that a token was replaced."""
        logit_T: Tensor = self.out(F.gelu(self.dense(hidden_TD))).squeeze(1)
        return logit_T


class PointerHead(nn.Module):
    """The two projections of the pointer network: queries of masked tokens, keys of the other sentence's tokens."""

    def __init__(self, width: int, init_std: float) -> None:
        super().__init__()
        self.query, self.key = Linear(width, width), Linear(width, width)
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, query_QD: Tensor, key_TD: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(query_QD), self.key(key_TD)
