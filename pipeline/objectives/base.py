"""The interface between the training loop and what a model is trained for.

The loop knows objectives only through this class. A contrast over sentence embeddings, replaced-token detection or a
text-to-text objective fits it too: each names its stream, owns its heads, and encodes what it needs through `encode`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from pipeline.data.batch import StreamBatch
from pipeline.data.packing import Packed


class Encode(Protocol):
    """Hidden states [T, D] of a packed batch after `layers` layers (None: all)."""

    def __call__(self, packed: Packed, layers: int | None = None) -> Tensor: ...


class EncoderSizes(Protocol):
    """Sizes that a head may have to fit."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def feed_forward(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def init_std(self) -> float: ...


class EncoderParts(Protocol):
    """What heads may read of the encoder when they are built: its sizes, and its word embedding to tie."""

    @property
    def config(self) -> EncoderSizes: ...
    @property
    def word(self) -> nn.Embedding: ...


class Objective(ABC):
    """One term of the loss.

    name: key of its settings, loss and metrics; reads: the stream it is computed on ("mono" or "pairs").
    """

    name: str
    reads: str

    @abstractmethod
    def heads(self, encoder: EncoderParts) -> dict[str, Callable[[], nn.Module]]:
        """Modules that the objective trains besides the encoder, by name; equal names are shared between objectives."""

    def label(self, encode: Encode, batch: StreamBatch) -> dict[str, Tensor]:
        """Before denoising, without gradient: write labels into `batch`; returns metrics (scalar tensors to sum)."""
        return {}

    @abstractmethod
    def count(self, batch: StreamBatch) -> Tensor:
        """How many tokens the objective predicts in a labelled batch: a scalar int64 tensor on the batch's device."""

    @abstractmethod
    def flops(self, sizes: EncoderSizes, batch: StreamBatch) -> float:
        """Floating-point operations of labelling and of the loss, forward and backward, by the rules of `flops`.

        The forward and backward of the masked batch through the encoder, which objectives share, is not among them.
        """

    @abstractmethod
    def loss(self, encode: Encode, heads: nn.ModuleDict, batch: StreamBatch) -> dict[str, Tensor]:
        """The summed loss ("loss", fp32 scalar with gradient), and metrics (scalar tensors to sum over the step).

        Every parameter of the heads must take part in the result even when nothing is predicted, because DeepSpeed
        needs the same gradients on every rank.
        """

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        """What to show of the metrics summed over some steps; count: tokens predicted in them."""
        return {"loss": sums["loss"] / max(count, 1)}
