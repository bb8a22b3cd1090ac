"""The model that training wraps: one encoder, the objectives, the modules that they train and the state that they keep.

Knows objectives through their contract alone; every forward of a training run goes through here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.data.batch import MicroBatch
from pipeline.data.packing import Packed, join
from pipeline.model.encoder import Encoder
from pipeline.model.flops import encoder_forward_flops
from pipeline.objectives.base import Asked, LabelTensors, Loss, Modules, Objective, Work
from pipeline.objectives.touch import touched


@dataclass
class Pass:
    """Packed batches that go through the encoder as one, and the layers whose hidden states are wanted of them."""

    parts: list[Packed]
    layers: set[int]

    @property
    def deepest(self) -> int:
        return max(self.layers)


def passes(asked: Iterable[Asked], layers: int) -> list[Pass]:
    """The passes that serve all who ask: batches that go equally deep share one, in the order in which they are asked for.

    layers: of the encoder. Joined batches make fewer and larger products, and one gradient of the word embedding instead of
    one each.
    """
    wanted: dict[int, Pass] = {}
    for packed, layer in asked:
        wanted.setdefault(id(packed), Pass([packed], set())).layers.add(layers if layer is None else layer)
    by_depth: dict[int, Pass] = {}
    for one in wanted.values():
        shared = by_depth.setdefault(one.deepest, Pass([], set()))
        shared.parts += one.parts
        shared.layers |= one.layers
    return list(by_depth.values())


class MicroStepEncoder:
    """What objectives see of the encoder during one micro-step: a batch that two of them read is encoded once."""

    def __init__(self, encoder: Encoder, asked: Iterable[Asked] = ()) -> None:
        """asked: what will be asked for, so that it is encoded together when the first of it is."""
        self._encoder = encoder
        self._passes = {id(part): one for one in passes(asked, encoder.config.layers) for part in one.parts}
        # The batch is kept beside its hidden states: the id of one that is gone may be given to another.
        self._memo: dict[tuple[int, int], tuple[Packed, Tensor]] = {}
        self._rows: dict[tuple[int, int], tuple[Packed, Tensor, Tensor]] = {}

    def __call__(self, packed: Packed, layers: int | None = None) -> Tensor:
        """Hidden states [T, D] of `packed` after `layers` layers (None: all)."""
        layer = self._encoder.config.layers if layers is None else layers
        if (id(packed), layer) not in self._memo:
            planned = self._passes.get(id(packed))
            self._run(planned if planned is not None and layer in planned.layers else Pass([packed], {layer}))
        return self._memo[id(packed), layer][1]

    def rows(self, packed: Packed, index_P: Tensor) -> Tensor:
        """Hidden states [P, D] of the tokens `index_P`, int64, after all layers; gathered once, and so is their gradient."""
        which = id(packed), id(index_P)
        if which not in self._rows:
            self._rows[which] = packed, index_P, self(packed)[index_P]
        return self._rows[which][2]

    @property
    def dtype(self) -> torch.dtype:
        return self._encoder.word.weight.dtype

    def _run(self, one: Pass) -> None:
        states = self._encoder(join(one.parts), one.deepest, every=True)
        for layer in one.layers:
            parts_TD = states[layer].split([part.tokens for part in one.parts])
            for part, part_TD in zip(one.parts, parts_TD, strict=True):
                self._memo[id(part), layer] = part, part_TD


class PretrainingModel(nn.Module):
    """The module that DeepSpeed wraps: every forward of a training run goes through `forward`."""

    def __init__(self, encoder: Encoder, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.encoder = encoder
        self.objectives = list(objectives)
        self.heads = nn.ModuleDict()
        # Registered where there are any, so that a checkpoint without says nothing of them.
        self._twins: nn.ModuleDict | None = None
        self.rates: dict[str, str] = {"encoder.": "encoder"}
        """Whose learning rate the parameters have whose names begin like this."""
        for objective in objectives:
            for name, trained in objective.modules(self).items():
                if name not in self.heads:  # objectives that name the same module share it
                    self.heads[name] = trained.build()
                    self.rates[f"heads.{name}."] = trained.rate

    def add_twins(self) -> None:
        """Build what objectives keep beside the trained modules; once, when these have the weights that they begin with."""
        built: dict[str, nn.Module] = {}
        for objective in self.objectives:
            for name, build in objective.twins(self).items():
                assert name not in self.heads, f"{name} is trained, and a twin"
                if name not in built:  # objectives that name the same twin share it
                    built[name] = as_buffers(build())
        if built:
            self._twins = nn.ModuleDict(built)

    @property
    def twins(self) -> nn.ModuleDict:
        """What objectives keep beside the trained modules: buffers alone, see `Objective.twins`."""
        return nn.ModuleDict() if self._twins is None else self._twins

    def flops(self, batch: MicroBatch) -> float:
        """Floating-point operations of labelling, forward and backward of a micro-step, by the rules of `flops`."""
        sizes = self.encoder.config
        encoding = {
            work: sum(
                encoder_forward_flops(sizes, part.sequence_lengths, one.deepest)
                for one in passes(self._asked(work, batch), sizes.layers)
                for part in one.parts
            )
            for work in ("label", "losses")
        }
        own = sum(objective.flops(sizes, batch) for objective in self._reading(batch))
        return encoding["label"] + 3 * encoding["losses"] + own

    def forward(
        self,
        work: Work,
        batch: MicroBatch | Sequence[MicroBatch] | Packed,
        labels: dict[str, LabelTensors] | None = None,
        layers: int | None = None,
    ) -> dict[str, dict[str, Any]]:
        """One of three kinds of work, each returning plain dictionaries of tensors, which DeepSpeed looks through.

        "label": by objective "labels" and "metrics" of a micro-batch (no gradient); of several, whose passes are one, by their
        numbers.
        "losses": by objective its summed "loss" and its metrics; `labels` as "label" gave them.
        "hidden": hidden states of a packed batch after layers 0 … `layers`, keyed by layer.
        """
        if work == "hidden":
            assert isinstance(batch, Packed)
            return {"hidden": {str(k): h for k, h in enumerate(self.encoder.hidden_states(batch, layers))}}
        assert not isinstance(batch, Packed)
        if work == "label":
            return self._label(batch) if isinstance(batch, MicroBatch) else self._label_all(batch)
        assert isinstance(batch, MicroBatch)
        encode = MicroStepEncoder(self.encoder, self._asked(work, batch))
        assert labels is not None, "the batch has not been labelled"
        losses = self._losses(encode, batch, labels)
        totals = dict(zip(losses, touched(self, [loss.total for loss in losses.values()]), strict=True))
        return {name: {"loss": totals[name], **loss.metrics} for name, loss in losses.items()}

    def _losses(self, encode: MicroStepEncoder, batch: MicroBatch, labels: dict[str, LabelTensors]) -> dict[str, Loss]:
        """By objective, in their order; those that lose together do so when the first of them does."""
        groups: dict[Hashable, list[Objective]] = {}
        for objective in self._reading(batch):
            alone = objective.together is None
            groups.setdefault(objective.name if alone else (objective.together,), []).append(objective)
        found: dict[str, Loss] = {}
        for objectives in groups.values():
            names = [objective.name for objective in objectives]
            own = [labels[name] for name in names]
            losses = objectives[0].loss_all(objectives, encode, self._modules_of_objectives, batch, own)
            found |= zip(names, losses, strict=True)
        return {objective.name: found[objective.name] for objective in self._reading(batch)}

    def _label(self, batch: MicroBatch) -> dict[str, dict[str, Any]]:
        (found,) = self._label_all([batch]).values()
        return found

    def _label_all(self, batches: Sequence[MicroBatch]) -> dict[str, dict[str, Any]]:
        asked = [asked for batch in batches for asked in self._asked("label", batch)]
        encode = MicroStepEncoder(self.encoder, asked)
        by_number: dict[str, dict[str, Any]] = {str(number): {} for number in range(len(batches))}
        for objective in self._reading(batches[0]):
            found = objective.label_all(encode, self._modules_of_objectives, batches)
            for by_objective, label in zip(by_number.values(), found, strict=True):
                by_objective[objective.name] = {"labels": label.tensors, "metrics": label.metrics}
        return by_number

    @property
    def _modules_of_objectives(self) -> Modules:
        return {**dict(self.heads.items()), **dict(self.twins.items())}

    def _reading(self, batch: MicroBatch) -> list[Objective]:
        """The objectives that have all they read in a micro-batch; in validation it may be one stream's."""
        return [objective for objective in self.objectives if all(view in batch for view in objective.reads)]

    def _asked(self, work: Literal["label", "losses"], batch: MicroBatch) -> list[Asked]:
        return [asked for objective in self._reading(batch) for asked in objective.asks(work, batch)]


def as_buffers(module: nn.Module) -> nn.Module:
    """The module with buffers in place of its parameters, what floats in fp32, and none of them in its `state_dict`.

    DeepSpeed leaves such buffers alone: it neither trains, cuts, casts nor saves them.
    """
    for part in module.modules():
        tensors = [
            (name, value) for name, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        ]
        for name, value in tensors:
            delattr(part, name)
            held = value.detach().clone()
            part.register_buffer(name, held.float() if held.is_floating_point() else held, persistent=False)
    return module
