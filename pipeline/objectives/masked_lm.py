"""MLM and TLM: predict the masked tokens of monolingual blocks and of translation pairs.

Devlin et al. (NAACL 2019) and Conneau & Lample (NeurIPS 2019, section 3.3); the two differ only in the stream they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.model.flops import masked_lm_flops
from pipeline.model.heads import MASKED_LM_HEAD, MaskedLMHead
from pipeline.objectives.base import Asked, Encode, LabelTensors, Loss, Modules, Objective, Parts, Trained
from pipeline.settings.sizes import EncoderConfig


class MaskedLM(Objective):
    """Cross-entropy at the masked positions of one stream."""

    def __init__(self, name: str, stream: str) -> None:
        self.name, self.reads = name, (View(stream, MaskedTokens.name),)

    def modules(self, parts: Parts) -> dict[str, Trained]:
        sizes = parts.encoder.config
        return {MASKED_LM_HEAD: Trained(partial(MaskedLMHead, parts.encoder.word, sizes.norm_eps, sizes.init_std))}

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        return [Asked(self._masked(batch).packed)] if work == "losses" else []

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        predicted_P = self._masked(batch).predicted_P
        # Filled there, not copied there: a copy from ordinary memory waits for the device.
        return torch.full((), len(predicted_P), device=predicted_P.device)

    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        return masked_lm_flops(sizes, len(self._masked(batch).predicted_P))

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        masked = self._masked(batch)
        loss, correct = modules[MASKED_LM_HEAD](encode(masked.packed)[masked.predicted_P], masked.target_ids_P)
        return Loss(loss, {"correct": correct})

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {**super().report(sums, count), "accuracy": sums["correct"] / max(count, 1)}

    def _masked(self, batch: MicroBatch) -> MaskedTokens:
        return batch[self.reads[0].stream].view(MaskedTokens)
