"""MLM and TLM: predict the masked tokens of monolingual blocks and of translation pairs.

Devlin et al. (NAACL 2019) and Conneau & Lample (NeurIPS 2019, section 3.3); the two differ only in the stream they read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.data.batch import StreamBatch
from pipeline.model.flops import masked_lm_flops
from pipeline.model.heads import MASKED_LM_HEAD, MaskedLMHead
from pipeline.objectives.base import Encode, EncoderParts, EncoderSizes, Objective


class MaskedLM(Objective):
    """Cross-entropy at the masked positions of one stream."""

    def __init__(self, name: str, reads: str) -> None:
        self.name, self.reads = name, reads

    def heads(self, encoder: EncoderParts) -> dict[str, Callable[[], nn.Module]]:
        return {MASKED_LM_HEAD: partial(MaskedLMHead, encoder.word, encoder.config.norm_eps, encoder.config.init_std)}

    def count(self, batch: StreamBatch) -> Tensor:
        # Filled there, not copied there: a copy from ordinary memory waits for the device.
        return torch.full((), len(batch.predicted_P), device=batch.predicted_P.device)

    def flops(self, sizes: EncoderSizes, batch: StreamBatch) -> float:
        return masked_lm_flops(sizes, len(batch.predicted_P))

    def loss(self, encode: Encode, heads: nn.ModuleDict, batch: StreamBatch) -> dict[str, Tensor]:
        loss, correct = heads[MASKED_LM_HEAD](encode(batch.masked)[batch.predicted_P], batch.target_ids_P)
        return {"loss": loss, "correct": correct}

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {**super().report(sums, count), "accuracy": sums["correct"] / max(count, 1)}
