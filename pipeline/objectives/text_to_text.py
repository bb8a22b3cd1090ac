"""Text to text: a decoder writes what the encoder has read of, a span, a sentence put right, a translation.

Span corruption on blocks and pairs, each source with one target or with several that know nothing of each other (mT5: Xue et
al., NAACL 2021; mT6: Chi et al., EMNLP 2021); a denoising autoencoder (XNLG: Chi et al., AAAI 2020); translation. All of them
share one decoder; they differ in the view that they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.views.text_to_text import TextToText as Texts
from pipeline.model.decoder import DECODER, Decoder
from pipeline.model.flops import decoder_flops
from pipeline.objectives.base import Asked, Encode, Labels, LabelTensors, Loss, Modules, Objective, Parts, Trained
from pipeline.settings.sizes import EncoderConfig
from pipeline.settings.text_to_text import Decoder as Settings

MEMORY = "memory_TD"
"""The label where the encoder is frozen: what it says of the sources, [T, D]."""


class TextToText(Objective):
    """Cross-entropy of what is to be written, given what was read and what was written so far; a word counts as one token."""

    def __init__(
        self, name: str, view: View, settings: Settings, smoothing: float = 0.0, freezes: bool = False
    ) -> None:
        """smoothing: of labels; freezes: the encoder stays as it is, so that no gradient is spent on it."""
        self.name, self.reads = name, (view,)
        self.settings, self.smoothing, self.freezes = settings, smoothing, freezes

    def modules(self, parts: Parts) -> dict[str, Trained]:
        return {DECODER: Trained(partial(Decoder, parts.encoder, self.settings))}

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        reads = "label" if self.freezes else "losses"
        return [Asked(self._texts(batch).source)] if work == reads else []

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        if not self.freezes:
            return Labels({}, {})
        return Labels({MEMORY: encode(self._texts(batch).source)}, {})

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        label_T = self._texts(batch).label_T
        # Filled there, not copied there: a copy from ordinary memory waits for the device.
        return torch.full((), len(label_T), device=label_T.device)

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        texts = self._texts(batch)
        memory_TD = labels[MEMORY] if self.freezes else encode(texts.source)
        total, nll, correct = modules[DECODER](
            memory_TD, texts.source, texts.target, texts.crossing, texts.label_T, self.smoothing
        )
        return Loss(total, {"nll": nll, "correct": correct})

    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        texts = self._texts(batch)
        source_S, target_R = texts.source.sequence_lengths, texts.target.sequence_lengths
        return decoder_flops(self.settings, sizes, source_S, target_R, texts.crossing.owner_R)

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        figures = {**super().report(sums, count), "accuracy": sums["correct"] / max(count, 1)}
        return {**figures, "nll": sums["nll"] / max(count, 1)} if self.smoothing else figures

    def _texts(self, batch: MicroBatch) -> Texts:
        texts = batch.of(self.reads[0])
        assert isinstance(texts, Texts)
        return texts
