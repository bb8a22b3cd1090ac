"""MLM and TLM: predict the masked tokens of monolingual blocks and of translation pairs.

Devlin et al. (NAACL 2019) and Conneau & Lample (NeurIPS 2019, section 3.3); the two differ only in the stream they read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.batch import StreamBatch
from pipeline.model.flops import masked_lm_flops
from pipeline.model.linear import Linear
from pipeline.model.linear_cross_entropy import linear_cross_entropy
from pipeline.objectives.base import Encode, EncoderParts, EncoderSizes, Objective

HEAD = "masked_lm"


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


class MaskedLM(Objective):
    """Cross-entropy at the masked positions of one stream."""

    def __init__(self, name: str, reads: str) -> None:
        self.name, self.reads = name, reads

    def heads(self, encoder: EncoderParts) -> dict[str, Callable[[], nn.Module]]:
        return {HEAD: partial(MaskedLMHead, encoder.word, encoder.config.norm_eps, encoder.config.init_std)}

    def count(self, batch: StreamBatch) -> Tensor:
        # Filled there, not copied there: a copy from ordinary memory waits for the device.
        return torch.full((), len(batch.predicted_P), device=batch.predicted_P.device)

    def flops(self, sizes: EncoderSizes, batch: StreamBatch) -> float:
        return masked_lm_flops(sizes, len(batch.predicted_P))

    def loss(self, encode: Encode, heads: nn.ModuleDict, batch: StreamBatch) -> dict[str, Tensor]:
        loss, correct = heads[HEAD](encode(batch.masked)[batch.predicted_P], batch.target_ids_P)
        return {"loss": loss, "correct": correct}

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {**super().report(sums, count), "accuracy": sums["correct"] / max(count, 1)}
