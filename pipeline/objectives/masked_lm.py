"""MLM and TLM: predict the masked tokens of monolingual blocks and of translation pairs.

Devlin et al. (NAACL 2019) and Conneau & Lample (NeurIPS 2019, section 3.3); the two differ only in the stream they read.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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

    def __init__(self, name: str, stream: str, factor: Hashable = None) -> None:
        """factor: equal for those whose losses the step multiplies by the same number, which share a call of the head."""
        self.name, self.reads = name, (View(stream, MaskedTokens.name),)
        self.together = None if factor is None else (MASKED_LM_HEAD, factor)

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
        (found,) = self.loss_all([self], encode, modules, batch, [labels])
        return found

    def loss_all(
        self,
        objectives: Sequence[Objective],
        encode: Encode,
        modules: Modules,
        batch: MicroBatch,
        labels: Sequence[LabelTensors],
    ) -> list[Loss]:
        """Of masked tokens of several streams, one after the other."""
        views = [objective._masked(batch) for objective in objectives if isinstance(objective, MaskedLM)]
        hidden_PD = torch.cat([encode.rows(view.packed, view.predicted_P) for view in views])
        target_P = torch.cat([view.target_ids_P for view in views])
        found = modules[MASKED_LM_HEAD](hidden_PD, target_P, [len(view.predicted_P) for view in views])
        pairs = zip(found[: len(views)], found[len(views) :], strict=True)
        return [Loss(loss, {"correct": correct}) for loss, correct in pairs]

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {**super().report(sums, count), "accuracy": sums["correct"] / max(count, 1)}

    def _masked(self, batch: MicroBatch) -> MaskedTokens:
        return batch[self.reads[0].stream].view(MaskedTokens)
