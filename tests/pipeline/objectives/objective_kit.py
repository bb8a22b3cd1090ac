"""An objective that has all that the contract allows for: a view of its own, a module, state that every step changes, its own
denominator, and a setting that a run which goes on must not change.

It learns to tell from pairs with words blotted out what a slow copy of its own head says of the whole ones. No use but to be
trained, stopped and cut anew.
"""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from pydantic.fields import FieldInfo
from torch import Tensor, nn

from pipeline.data.batch import Change, MicroBatch, StreamBatch, View, ViewBatch
from pipeline.data.counter_random import hash_key, uniform
from pipeline.data.packing import Packed
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import add_kind
from pipeline.objectives import catalog
from pipeline.objectives.base import Asked, Encode, Labels, LabelTensors, Loss, Modules, Objective, Parts, Trained
from pipeline.settings.added_words import AddedWords
from pipeline.settings.fixed import FIXED
from pipeline.settings.objectives import Objectives, Term
from pipeline.settings.schema import Config
from pipeline.settings.sizes import EncoderConfig

BLOTTED, UNKNOWN = 0.3, 3
LAYER = 1
QUEUE = 6


class ProbeTerm(Term):
    momentum: float = Field(0.999, description="of the slow head", json_schema_extra=FIXED)
    dies_at: int = Field(0, description="optimizer step in which its process kills itself; 0: none")


class WithProbe(Objectives):
    probe: ProbeTerm | None = ProbeTerm()


@add_kind
@dataclass
class Blotted(ViewBatch):
    """Pairs with words blotted out."""

    name: ClassVar[str] = "blotted"
    counter: ClassVar[int] = 1000

    packed: Packed

    @staticmethod
    def make(stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: None) -> Blotted:
        key_T = hash_key(np.repeat(key_S, sequences.lengths_S), sequences.ids_T)
        ids_T = np.where((sequences.ids_T > UNKNOWN) & (uniform(key_T) < BLOTTED), UNKNOWN, sequences.ids_T)
        return Blotted(stream.clean.with_ids(torch.from_numpy(ids_T)))

    def map(self, change: Change) -> Blotted:
        return replace(self, packed=self.packed.map(change))


class Queue(nn.Module):
    """The last keys of all ranks, and where the next ones go."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.keys_QD = nn.Parameter(torch.zeros(QUEUE, width))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))


class Probe(Objective):
    """See the file."""

    pooled = False

    def __init__(self, name: str, term: ProbeTerm) -> None:
        self.name, self.reads = name, (View("pairs", Blotted.name),)
        self.momentum, self.dies_at = term.momentum, term.dies_at
        self.compiled_for: torch.dtype | None = None

    def modules(self, parts: Parts) -> dict[str, Trained]:
        width = parts.encoder.config.hidden
        return {"probe": Trained(partial(nn.Linear, width, width), rate="encoder")}

    def twins(self, parts: Parts) -> dict[str, Callable[[], nn.Module]]:
        return {
            "slow_probe": partial(copy.deepcopy, parts.heads["probe"]),
            "probe_queue": partial(Queue, parts.encoder.config.hidden),
        }

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        pairs = batch["pairs"]
        return [Asked(pairs.clean if work == "label" else pairs.view(Blotted).packed, LAYER)]

    def compile_kernels(self, sizes: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.compiled_for = dtype

    def before_training(self, parts: Parts, batches: Callable[[int], list[MicroBatch]]) -> None:
        assert self.compiled_for is parts.encoder.word.weight.dtype, "kernels are compiled before all else"
        keys_QD = parts.twins["probe_queue"].keys_QD
        keys_QD += 1.0 + sum(batch.tokens > 0 for batch in batches(0)) / len(batches(0))

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        pairs = batch["pairs"]
        mean_SD = means(encode(pairs.clean, LAYER), pairs.clean)
        key_SD = modules["slow_probe"](mean_SD)
        return Labels({"key_SD": key_SD}, {"keys": key_SD.sum()})

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        return torch.full((), len(labels["key_SD"]))

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        packed = batch["pairs"].view(Blotted).packed
        hidden_TD = encode(packed, LAYER)
        query_SD = modules["probe"](means(hidden_TD, packed).to(hidden_TD.dtype)).float()
        target_SD = labels["key_SD"] + modules["probe_queue"].keys_QD.mean(0)
        return Loss((query_SD - target_SD).square().mean(1).sum(), {"queries": torch.tensor(len(query_SD))})

    def flops(self, sizes: Any, batch: MicroBatch) -> float:
        return 0.0

    def after_step(self, parts: Parts, step: int, applied: bool, labels: Sequence[LabelTensors]) -> None:
        if step == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if not applied:
            return
        trained, slow, queue = parts.heads["probe"], parts.twins["slow_probe"], parts.twins["probe_queue"]
        with deepspeed.zero.GatheredParameters(list(trained.parameters())):
            for name, parameter in trained.named_parameters():
                getattr(slow, name).lerp_(parameter.float(), 1 - self.momentum)
        own_MSD = torch.stack([label["key_SD"] for label in labels])
        of_ranks = [torch.empty_like(own_MSD) for _ in range(dist.get_world_size())]
        dist.all_gather(of_ranks, own_MSD)
        # By micro-step, rank and row: in the order of the samples, however they were cut.
        for key_D in torch.stack(of_ranks, dim=1).flatten(0, 2):
            queue.keys_QD[int(queue.next)] = key_D
            queue.next.copy_((queue.next + 1) % QUEUE)

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        return {**super().report(sums, count), "key": sums["keys"] / max(count, 1)}


def means(hidden_TD: Tensor, packed: Packed) -> Tensor:
    """The mean hidden state of each sequence, fp32 [S, D]."""
    return torch.stack([part.mean(0) for part in hidden_TD.float().split(packed.sequence_lengths.tolist())])


def install() -> None:
    """Add it to the catalog and its settings to the schema: for processes of their own, before they read a config."""
    catalog.ENTRIES["probe"] = catalog.Entry(
        words="a test's",
        streams=("pairs",),
        modules={"probe": lambda term, sizes: sizes.hidden * (sizes.hidden + 1)},
        build=lambda name, term, model: Probe(name, term),
        flops=lambda term, sizes, sample: 0.0,
    )
    Config.model_fields["objectives"] = FieldInfo(annotation=WithProbe, default=WithProbe())
    Config.model_rebuild(force=True)
