"""Sentence contrast whose keys a slow encoder makes, with those of earlier steps in a queue (He et al., CVPR 2020).

The queue stands still within a step. When that is done, and only if it changed the weights, the step's keys go in, in the order
of its samples, and the slow encoder follows the trained one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import nn

from pipeline.data.batch import MicroBatch
from pipeline.model.contrast import Candidates, SentenceQueue
from pipeline.model.encoder import Encoder
from pipeline.model.flops import encoder_forward_flops, slow_keys_flops
from pipeline.objectives.base import Asked, Encode, Labels, LabelTensors, Loss, Modules, Parts
from pipeline.objectives.in_order import in_order
from pipeline.objectives.sentence_contrast import PROJECTION, TEXTS, VECTORS, SentenceContrast, loss_of
from pipeline.objectives.slow_weights import cut_copy, follow
from pipeline.settings.sentence_contrast import SentenceContrast as Settings
from pipeline.settings.sizes import EncoderConfig

ENCODER, SLOW_PROJECTION, QUEUE = "slow_encoder", "slow_sentence_projection", "sentence_queue"
STEP_TEXTS, STEP_VECTORS = "step_text_B2", ("step_first_BD", "step_second_BD")
"""Labels: what all of the step's samples have, in their order."""


class SlowKeys(SentenceContrast):
    """The trained encoder makes queries, a slow one keys."""

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        assert settings.momentum is not None
        self._momentum = settings.momentum
        self._keys = tuple(1 - side for side in self.queries)
        """The sides whose sentences are keys."""

    def twins(self, parts: Parts) -> dict[str, Callable[[], nn.Module]]:
        twins: dict[str, Callable[[], nn.Module]] = {ENCODER: partial(cut_copy, parts.encoder, self.settings.layer)}
        if self.settings.projection:
            twins[SLOW_PROJECTION] = partial(copy.deepcopy, parts.heads[PROJECTION])
        if self.settings.queue:
            twins[QUEUE] = partial(SentenceQueue, self.settings.queue, parts.encoder.config.hidden)
        return twins

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        sides = self.apart(batch).sides
        return [Asked(sides[side], self.settings.layer) for side in self.queries] if work == "losses" else []

    def before_training(self, parts: Parts, batches: Callable[[int], list[MicroBatch]]) -> None:
        """Fills the queue with keys of the first steps' samples."""
        if not self.settings.queue or not self.settings.fill:
            return
        twins = dict(parts.twins.items())
        twins[ENCODER].eval()
        step = keys = 0
        while keys < self.settings.queue:
            labels = [self._labels(twins, batch, parts.encoder.word.weight.dtype) for batch in batches(step)]
            keys += self._enqueue(parts, self.exchange(labels)[0])
            step += 1

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        return Labels(self._labels(modules, batch, encode.dtype), {})

    def exchange(self, labels: Sequence[LabelTensors]) -> Sequence[LabelTensors]:
        """Adds the keys of the whole step."""
        names = {TEXTS: STEP_TEXTS, **{VECTORS[side]: STEP_VECTORS[side] for side in self._keys}}
        of_step = {of_step: in_order([label[own] for label in labels]) for own, of_step in names.items()}
        self.step_samples = len(of_step[STEP_TEXTS])
        return [{**label, **of_step} for label in labels]

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        queries = self.encoded(encode, modules, self.apart(batch), self.queries)
        keys = {side: labels[VECTORS[side]] for side in self._keys}

        def candidates(side: int) -> list[Candidates]:
            found = []
            if QUEUE in modules:
                found.append(_queue(modules).candidates())
            if self.settings.in_batch:  # nothing is exchanged in validation: the batch is all there is
                of_step = labels.get(STEP_VECTORS[side], labels[VECTORS[side]])
                found.append(Candidates(of_step, labels.get(STEP_TEXTS, labels[TEXTS])[:, side]))
            return found

        return loss_of(self.compared(queries, keys, labels[TEXTS], candidates))

    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        apart = self.apart(batch)
        samples, directions = len(apart.text_B2), len(self.queries)
        lengths = [apart.sides[side].sequence_lengths for side in self._keys]
        encoding = sum(encoder_forward_flops(sizes, lengths_B, self.settings.layer) for lengths_B in lengths)
        negatives = self.settings.queue + self.settings.in_batch * (self.step_samples or samples)
        return encoding + slow_keys_flops(sizes, samples * directions, negatives, self.settings.projection)

    def after_step(self, parts: Parts, step: int, applied: bool, labels: Sequence[LabelTensors]) -> None:
        if not applied:
            return
        self._enqueue(parts, labels[0])
        momentum = self._momentum.at(step)
        follow(parts.twins[ENCODER], parts.encoder, momentum)
        if self.settings.projection:
            follow(parts.twins[SLOW_PROJECTION], parts.heads[PROJECTION], momentum)

    def _labels(self, modules: Modules, batch: MicroBatch, dtype: torch.dtype) -> LabelTensors:
        """Texts, and the keys by the slow encoder; dtype: that of the run."""
        apart, slow = self.apart(batch), modules[ENCODER]
        assert isinstance(slow, Encoder)
        labels = {TEXTS: apart.text_B2}
        # On a GPU its products are in the run's precision, as the trained encoder's are; its weights stay what they are.
        with torch.autocast("cuda", dtype, enabled=apart.text_B2.is_cuda and dtype != torch.float32):
            for side in self._keys:
                hidden_TD = slow(apart.sides[side], self.settings.layer)
                labels[VECTORS[side]] = self.vectors(hidden_TD, apart.sides[side], modules.get(SLOW_PROJECTION))
        return labels

    def _enqueue(self, parts: Parts, labels: LabelTensors) -> int:
        """Put a step's keys into the queue, sample by sample; how many they are."""
        keys_KD = torch.stack([labels[STEP_VECTORS[side]] for side in self._keys], dim=1).flatten(0, 1)
        text_K = labels[STEP_TEXTS][:, list(self._keys)].flatten()
        if QUEUE in parts.twins:
            _queue(parts.twins).enqueue(keys_KD, text_K)
        return len(text_K)


def _queue(twins: Modules | nn.ModuleDict) -> SentenceQueue:
    queue = twins[QUEUE]
    assert isinstance(queue, SentenceQueue)
    return queue
