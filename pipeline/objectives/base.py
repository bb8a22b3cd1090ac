"""The contract between training and what a model is trained for.

Training knows objectives only through this class. An objective says which views of the data it reads, owns the modules that
it trains and the state that it keeps, labels, counts and loses. `catalog` has the list.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipeline.data.batch import MicroBatch, View
from pipeline.data.packing import Packed
from pipeline.model.encoder import Encoder
from pipeline.settings.sizes import EncoderConfig

Work = Literal["label", "losses", "hidden"]
"""The kinds of work that the model does; DeepSpeed has one forward for all of them."""
LabelTensors = dict[str, Tensor]
"""Labels of one micro-batch, by names that the objective gives them; empty where it has none."""
Modules = Mapping[str, nn.Module]


class Encode(Protocol):
    """Hidden states [T, D] of a packed batch after `layers` layers (None: all)."""

    def __call__(self, packed: Packed, layers: int | None = None) -> Tensor: ...
    def rows(self, packed: Packed, index_P: Tensor) -> Tensor:
        """Those of some tokens [P, D], after all layers: two objectives that name the same tensor share them."""

    @property
    def dtype(self) -> torch.dtype:
        """What the encoder computes in."""


class Asked(NamedTuple):
    """A packed batch to encode, up to a layer (None: the last)."""

    packed: Packed
    layers: int | None = None


class Parts(Protocol):
    """The model as objectives see it when they build their parts, and after a step."""

    @property
    def encoder(self) -> Encoder: ...
    @property
    def heads(self) -> nn.ModuleDict:
        """Modules that objectives train, those of all of them."""

    @property
    def twins(self) -> nn.ModuleDict:
        """Modules of buffers, which nobody trains."""


@dataclass(frozen=True)
class Trained:
    """A module that an objective trains beside the encoder."""

    build: Callable[[], nn.Module]
    rate: Literal["encoder", "heads"] = "heads"
    """Whose learning rate its parameters have, where `optimizer.heads_lr` or `heads_first_steps` set them apart."""


class Labels(NamedTuple):
    """What labelling found in a micro-batch."""

    tensors: LabelTensors
    metrics: dict[str, Tensor]  # scalars of any dtype, to sum over the step in fp64


class Loss(NamedTuple):
    """What an objective loses in a micro-batch."""

    total: Tensor  # fp32 scalar with gradient, summed over what is predicted
    metrics: dict[str, Tensor]  # scalars of any dtype without gradient, to sum over the step in fp64


class Objective(ABC):
    """One term of the loss.

    name: key of its settings, loss and metrics.
    reads: the views that it is computed on; the data makes these and no others.
    """

    name: str
    reads: tuple[View, ...]
    pooled: bool = True
    """Its loss is divided by what all pooled objectives predict in the step, as XLM-Align's terms are; else by its count."""
    together: Hashable = None
    """Objectives that have an equal one lose by one `loss_all`; None: it loses by itself. Only of losses that the step
    multiplies by the same number."""

    @property
    def streams(self) -> list[str]:
        """The streams that its views are of, in order and each once."""
        return sorted({view.stream for view in self.reads})

    def modules(self, parts: Parts) -> dict[str, Trained]:
        """Modules that the objective trains besides the encoder, by name; equal names are shared between objectives."""
        return {}

    def twins(self, parts: Parts) -> dict[str, Callable[[], nn.Module]]:
        """Modules that nobody trains and only `after_step` changes, by name: a slow copy of the encoder, a queue.

        They are built when all weights are loaded. What floats in them is held in fp32 whatever the run's precision, whole
        on every rank, and kept in a checkpoint as it is.
        """
        return {}

    def begin(self, parts: Parts, pretrained: bool) -> None:  # noqa: B027
        """Once, when the encoder has the weights that a new run begins with, before twins are built and the optimizer is.

        pretrained: they are another model's, and own modules may begin with them too.
        """

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        """What `label` or `loss` will encode, as far as it can be said before: one pass serves all objectives that ask.

        Batches that are asked for up to the same layer are encoded together. What is not said here is encoded when it is asked
        for, by itself.
        """
        return ()

    def compile_kernels(self, sizes: EncoderConfig, dtype: torch.dtype, device: torch.device) -> None:  # noqa: B027
        """In each process before its first step: what would be compiled within one. dtype: of the hidden states."""

    def before_training(self, parts: Parts, batches: Callable[[int], list[MicroBatch]]) -> None:  # noqa: B027
        """Once, before the first step of a new run: fill what `twins` hold. batches: this rank's micro-batches of a step."""

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        """Before denoising, in `eval()` and without gradient: labels, which `count` and `loss` are given again."""
        return Labels({}, {})

    def label_all(self, encode: Encode, modules: Modules, batches: Sequence[MicroBatch]) -> list[Labels]:
        """`label` of some micro-batches of a step, whose passes are one: on a GPU as many at a time as there is room for."""
        return [self.label(encode, modules, batch) for batch in batches]

    def exchange(self, labels: Sequence[LabelTensors]) -> Sequence[LabelTensors]:
        """Between labelling and the losses of a step, without gradient: what ranks have to tell each other, in one go.

        labels: this rank's, one for each micro-step; what comes back takes their place. Every rank calls it; not validation.
        """
        return labels

    @abstractmethod
    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        """How many tokens (or pairs, sentences) the objective predicts: a scalar int64 tensor on the batch's device."""

    @abstractmethod
    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        """The summed loss of what is predicted in a micro-batch.

        Every rank must run the same modules in the same order, also where nothing is predicted: at ZeRO-3 each of them is a
        communication. Parameters that have no part in any loss get their zeros from the model.
        """

    def loss_all(
        self,
        objectives: Sequence[Objective],
        encode: Encode,
        modules: Modules,
        batch: MicroBatch,
        labels: Sequence[LabelTensors],
    ) -> list[Loss]:
        """`loss` of the objectives that lose together, the first of which is asked: a head that they share is called once.

        labels: of each. The gradient of each total is right as long as all of them have the same factor.
        """
        return [objective.loss(encode, modules, batch, own) for objective, own in zip(objectives, labels, strict=True)]

    @abstractmethod
    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        """Floating-point operations of its own modules, forward and backward, by the rules of `flops`.

        The encoder's passes, which objectives share, are not among them as far as `asks` names them.
        """

    def after_step(self, parts: Parts, step: int, applied: bool, labels: Sequence[LabelTensors]) -> None:  # noqa: B027
        """After every optimizer step, outside the engine's forward and without gradient; every rank calls it.

        step: optimizer steps done; applied: whether the optimizer changed the weights (fp16 skips a step that overflows);
        labels: this rank's, one for each micro-step. At ZeRO-3 weights must be gathered to be read
        (`deepspeed.zero.GatheredParameters`), in the same order on every rank. What `twins` hold must come out the same there.
        """

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        """What to show of the metrics summed over some steps; count: what was predicted in them."""
        return {"loss": sums["loss"] / max(count, 1)}
