"""What one rank works on in one micro-step: a packed batch per stream, with its masks and, for pairs, where the sides lie.

Built by `data`, read by objectives; knows neither of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.packing import Packed
from sinkhorn_align import Links


@dataclass
class Spans:
    """Where the sides of B pairs lie in the flat batch, special tokens left out. int32 [B] each, always on the CPU: the
    aligner chooses its launches by lengths, and fetching them from a GPU would wait for it."""

    source_start_B: Tensor
    source_length_B: Tensor
    target_start_B: Tensor
    target_length_B: Tensor


@dataclass
class StreamBatch:
    """Blocks or pairs of one stream, masked. All index tensors are int64."""

    masked: Packed  # what the denoising objectives encode
    clean_ids_T: Tensor  # the same tokens before masking
    predicted_P: Tensor  # indices into T of the masked positions
    target_ids_P: Tensor  # the tokens to predict there
    languages_S: np.ndarray  # int32 language (or language pair) of each sequence, in the stream's order
    sample_S: np.ndarray  # int64 global sample index of each sequence
    spans: Spans | None = None  # pairs only
    links: Links | None = None  # written by self-labelling

    @property
    def clean(self) -> Packed:
        return self.masked.with_ids(self.clean_ids_T)

    def map(self, change: Callable[[Tensor], Tensor]) -> StreamBatch:
        """The same batch, not yet labelled, with every tensor but the spans changed."""
        assert self.links is None, "a batch moves before it is labelled"
        tensors: dict[str, Any] = {
            name: change(getattr(self, name)) for name in ("clean_ids_T", "predicted_P", "target_ids_P")
        }
        return replace(self, masked=self.masked.map(change), **tensors)


@dataclass
class MicroBatch:
    """The streams of one micro-step by name ("mono", "pairs")."""

    streams: dict[str, StreamBatch] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.streams

    def __getitem__(self, name: str) -> StreamBatch:
        return self.streams[name]

    @property
    def tokens(self) -> int:
        """Tokens in all streams; there is no padding to leave out."""
        return sum(stream.masked.tokens for stream in self.streams.values())

    def map(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        """The same micro-batch, not yet labelled, with every tensor changed."""
        return MicroBatch({name: stream.map(change) for name, stream in self.streams.items()})

    def pinned(self) -> MicroBatch:
        """In page-locked memory, from which copies to a GPU do not wait."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> MicroBatch:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
