"""One optimizer step: label, count over all ranks, denoise, update; the update is the same however the batch was cut.

Knows objectives through their contract, and DeepSpeed's engine; nothing of files, logs and checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.batch import MicroBatch
from pipeline.data.counter_random import DROPOUT, hash_key
from pipeline.objectives.base import LabelTensors, Objective
from pipeline.settings.objectives import term_weights
from pipeline.settings.schema import Config
from pipeline.training import ranks
from pipeline.training.divergence import NonFiniteSteps, poison
from pipeline.training.loss_scale import LossScale
from pipeline.training.prefetch import Inputs
from pipeline.watch.meter import Meter

SEQUENCES_AT_ONCE = 2048
"""Blocks and pairs that are labelled at a time on a GPU, where a micro-batch's few tokens would not keep it busy. Ranks must
agree on it: at ZeRO-3 every forward is a communication."""
Labelled = dict[str, LabelTensors]
"""The labels of a micro-batch, by objective."""


class TrainingStep:
    """What happens in every optimizer step, and is counted over them."""

    def __init__(self, engine: Any, config: Config, objectives: Sequence[Objective], meter: Meter) -> None:
        self._engine, self._config, self._objectives, self._meter = engine, config, list(objectives), meter
        self._non_finite = NonFiniteSteps(engine, objectives, config.run.non_finite_steps)
        self.loss_scale = LossScale(engine)

    def run(self, inputs: Inputs, step: int, stop: Callable[[], bool]) -> bool:
        """Do optimizer step `step` (from 0) on this rank's next micro-batches; whether any rank was told to stop, or has to.

        Raises:
            ValueError: too many steps in a row were not finite, or overflow fp16 at the smallest loss scale.
        """
        seed = hash_key(self._config.run.seed, DROPOUT, step, ranks.rank())
        torch.manual_seed(int(seed))  # dropout, if any: the same after a resume
        on_device = inputs.take()
        self._meter.clock.lap("input")
        labels = self._label(on_device)
        shared = self._share(on_device, labels, stop())
        losses = self._denoise(on_device, labels, shared[: len(self._objectives)], step, inputs.fetch)
        self._meter.count(shared[:-1], sum(map(self._engine.module.flops, on_device)))
        # engine.step() has waited for the device, to know whether to skip; so reading these costs no further wait.
        stopping = bool(shared[-1])
        self._non_finite.check(step + 1, on_device, losses)
        self.loss_scale.check()
        self._after(step + 1, labels)
        self._meter.clock.lap("step")
        return stopping

    def _label(self, batches: Sequence[MicroBatch]) -> list[Labelled]:
        """4a. Self-labelling, without gradient: the objectives' labels, and what ranks have to tell each other of them."""
        self._engine.eval()
        labels: list[Labelled] = []
        with torch.no_grad():
            at_once = labelled_at_once(batches) if self._engine.device.type == "cuda" else 1
            for first in range(0, len(batches), at_once):
                found = self._engine("label", batches[first : first + at_once])
                for of_batch in found.values():
                    self._meter.add({name: label["metrics"] for name, label in of_batch.items()})
                    labels.append({name: label["labels"] for name, label in of_batch.items()})
            for objective in self._objectives:
                told = objective.exchange([labelled[objective.name] for labelled in labels])
                for labelled, own in zip(labels, told, strict=True):
                    labelled[objective.name] = own
        self._engine.train()
        self._meter.clock.lap("label")
        return labels

    def _share(self, batches: Sequence[MicroBatch], labels: Sequence[Labelled], stop: bool) -> Tensor:
        """4b. One all-reduce a step, fp64: what each objective predicts, all tokens, and how many ranks are to stop."""
        counts = torch.stack([sum_counts(objective, batches, labels) for objective in self._objectives])
        # Filled there, not copied there: a copy from ordinary memory waits for the device.
        own = [torch.full((1,), value, device=counts.device) for value in (sum(b.tokens for b in batches), int(stop))]
        shared = torch.cat([counts, *own]).double()
        dist.all_reduce(shared)
        return shared

    def _denoise(
        self,
        batches: Sequence[MicroBatch],
        labels: Sequence[Labelled],
        counts: Tensor,
        step: int,
        fetch: Callable[[], None],
    ) -> list[dict[str, Tensor]]:
        """4c. Denoising, one backward a micro-step; this rank's losses by objective, of each.

        DeepSpeed averages over ranks and micro-steps, hence the factor. fetch: what copies the next step's batches, before the
        last `engine.step()` waits for the device.
        """
        weights = term_weights(self._config.objectives.active(), step)
        scales = [
            (names, ranks.world_size() * len(batches) / predicted.clamp(min=1))
            for names, predicted in denominators(self._objectives, counts)
        ]
        losses = []
        for batch, labelled in zip(batches, labels, strict=True):
            terms = self._engine("losses", batch, labelled)
            self._meter.add(terms)
            losses.append({name: term["loss"].detach() for name, term in terms.items()})
            parts = [
                torch.stack([weights[name] * terms[name]["loss"] for name in names]).sum() * scale
                for names, scale in scales
            ]
            loss = torch.stack(parts).sum()
            self._meter.clock.lap("forward")
            self._engine.backward((loss * poison(loss)).float())
            self._meter.clock.lap("backward")
            if len(losses) == len(batches):
                fetch()
            self._engine.step()
            self._meter.clock.lap("step")
        return losses

    def _after(self, step: int, labels: Sequence[Labelled]) -> None:
        """What objectives do after the update, outside the engine's forward."""
        applied = not self._engine.optimizer.overflow
        with torch.no_grad():
            for objective in self._objectives:
                own = [labelled[objective.name] for labelled in labels]
                objective.after_step(self._engine.module, step, applied, own)


def labelled_at_once(batches: Sequence[MicroBatch]) -> int:
    """Micro-batches that are labelled together: all of a step have as many samples, on every rank."""
    samples = sum(len(stream.sample_S) for stream in batches[0].streams.values())
    return max(SEQUENCES_AT_ONCE // max(samples, 1), 1)


def sum_counts(objective: Objective, batches: Sequence[MicroBatch], labels: Sequence[Labelled]) -> Tensor:
    """What an objective predicts in this rank's micro-batches of the step: a scalar int64 tensor on their device."""
    counts = [objective.count(batch, labelled[objective.name]) for batch, labelled in zip(batches, labels, strict=True)]
    return torch.stack(counts).sum()


def denominators(objectives: Sequence[Objective], counts: Tensor) -> list[tuple[list[str], Tensor]]:
    """Names of the objectives whose losses have one denominator, and that: of all pooled ones, and of each other one its own.

    counts: what each objective predicts in the step, on all ranks.
    """
    pooled = [number for number, objective in enumerate(objectives) if objective.pooled]
    groups = ([pooled] if pooled else []) + [[n] for n, objective in enumerate(objectives) if not objective.pooled]
    return [
        ([objectives[number].name for number in group], torch.stack([counts[number] for number in group]).sum())
        for group in groups
    ]
