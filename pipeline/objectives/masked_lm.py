"""MLM and TLM: predict the masked tokens of monolingual blocks and of translation pairs.

Devlin et al. (NAACL 2019) and Conneau & Lample (NeurIPS 2019, section 3.3); the two differ only in the stream they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.batch import MicroBatch, View
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.model.flops import masked_lm_flops
from pipeline.model.linear import Linear
from pipeline.model.linear_cross_entropy import linear_cross_entropy
from pipeline.objectives.base import Asked, Encode, EncoderSizes, LabelTensors, Loss, Modules, Objective, Parts, Trained

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

    def __init__(self, name: str, stream: str) -> None:
        self.name, self.reads = name, (View(stream, MaskedTokens.name),)

    def modules(self, parts: Parts) -> dict[str, Trained]:
        sizes = parts.encoder.config
        return {HEAD: Trained(partial(MaskedLMHead, parts.encoder.word, sizes.norm_eps, sizes.init_std))}

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        return [Asked(self._masked(batch).packed)] if work == "losses" else []

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        predicted_P = self._masked(batch).predicted_P
        # Filled there, not copied there: a copy from ordinary memory waits for the device.
        return torch.full((), len(predicted_P), device=predicted_P.device)

    def flops(self, sizes: EncoderSizes, batch: MicroBatch) -> float:
        return masked_lm_flops(sizes, len(self._masked(batch).predicted_P))

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        masked = self._masked(batch)
        loss, correct = modules[HEAD](encode(masked.packed)[masked.predicted_P], masked.target_ids_P)
        return Loss(loss, {"correct": correct})

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {**super().report(sums, count), "accuracy": sums["correct"] / max(count, 1)}

    def _masked(self, batch: MicroBatch) -> MaskedTokens:
        return batch[self.reads[0].stream].view(MaskedTokens)
