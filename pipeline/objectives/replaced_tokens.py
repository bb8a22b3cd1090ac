"""MRTD and TRTD, replaced token detection on monolingual blocks and on pairs (XLM-E: Chi et al., ACL 2022).

A small generator fills blanks with words that it draws; the encoder tells of every token whether it was replaced (ELECTRA:
Clark et al., ICLR 2020). Both are trained at once, the generator by its masked-LM loss alone: nothing is differentiated through
the draw. The encoder, which is exported, is the discriminator; the generator and both heads are left behind.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.views.cloze import Cloze
from pipeline.data.views.masking import MASK_RATE
from pipeline.model.flops import replaced_tokens_flops
from pipeline.model.generator import Disentangled, Embeddings, Generator, disentangle
from pipeline.model.heads import DetectionHead
from pipeline.objectives.base import Encode, Labels, LabelTensors, Loss, Modules, Objective, Parts, Trained
from pipeline.settings.sizes import EncoderConfig

GENERATOR, DETECTION = "generator", "replaced"
IDS = "ids_T"
"""The label: int64 [T], what the encoder reads: the clean tokens, in whose blanks the generator's words stand."""


class ReplacedTokens(Objective):
    """Draw, then tell what was drawn, on one stream. Two of them share generator and head.

    The loss is Σ over blanks of the generator's cross-entropy + 0.15 · λ · Σ over tokens of the discriminator's, special tokens
    included. Divided by the number of blanks, 15 % of the tokens, that is ELECTRA's mean + λ · mean; and sums do not depend on
    how a step is cut.
    """

    def __init__(
        self, name: str, stream: str, layers: int, embeddings: Embeddings, discriminator_weight: float
    ) -> None:
        """layers, embeddings: of the generator; discriminator_weight: λ."""
        self.name, self.reads = name, (View(stream, Cloze.name),)
        self.layers, self.embeddings = layers, embeddings
        self.factor = MASK_RATE * discriminator_weight

    def modules(self, parts: Parts) -> dict[str, Trained]:
        sizes = parts.encoder.config
        return {
            GENERATOR: Trained(partial(Generator, parts.encoder, self.layers, self.embeddings), rate="encoder"),
            DETECTION: Trained(partial(DetectionHead, sizes.hidden, sizes.init_std)),
        }

    def begin(self, parts: Parts, pretrained: bool) -> None:
        generator = parts.heads[GENERATOR]
        assert isinstance(generator, Generator)
        if pretrained:
            generator.begin_as(parts.encoder)
        if self.embeddings == "disentangled" and not isinstance(parts.encoder.word, Disentangled):
            disentangle(parts.encoder)

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        clean_T, cloze = batch[self.reads[0].stream].clean.ids_T, self._cloze(batch)
        drawn_P, same = modules[GENERATOR](cloze.packed, cloze.predicted_P, cloze.target_ids_P, cloze.uniform_P)
        ids_T = clean_T.index_put((cloze.predicted_P,), drawn_P)
        return Labels({IDS: ids_T}, {"replaced": len(drawn_P) - same})

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        predicted_P = self._cloze(batch).predicted_P
        # Filled there, not copied there: a copy from ordinary memory waits for the device.
        return torch.full((), len(predicted_P), device=predicted_P.device)

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        clean, cloze = batch[self.reads[0].stream].clean, self._cloze(batch)
        generator, correct = modules[GENERATOR](cloze.packed, cloze.predicted_P, cloze.target_ids_P)
        replaced_T = labels[IDS] != clean.ids_T
        logit_T = modules[DETECTION](encode(clean.with_ids(labels[IDS]))).float()
        discriminator = F.binary_cross_entropy_with_logits(logit_T, replaced_T.float(), reduction="sum")
        said_T = logit_T.detach() > 0
        metrics = {
            "generator": generator.detach(),
            "discriminator": discriminator.detach(),
            "correct": correct,
            "tokens": torch.full((), clean.tokens, device=logit_T.device),
            "said": said_T.sum(),
            "found": (said_T & replaced_T).sum(),
        }
        return Loss(generator + self.factor * discriminator, metrics)

    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        stream = batch[self.reads[0].stream]
        predicted = len(self._cloze(batch).predicted_P)
        return replaced_tokens_flops(sizes, stream.clean.sequence_lengths, self.layers, predicted)

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {
            **super().report(sums, count),
            "generator_loss": sums["generator"] / max(count, 1),
            "discriminator_loss": sums["discriminator"] / max(sums["tokens"], 1),
            "generator_accuracy": sums["correct"] / max(count, 1),
            "replaced": sums["replaced"] / max(count, 1),
            "recall": sums["found"] / max(sums["replaced"], 1),
            "precision": sums["found"] / max(sums["said"], 1),
        }

    def _cloze(self, batch: MicroBatch) -> Cloze:
        return batch[self.reads[0].stream].view(Cloze)
