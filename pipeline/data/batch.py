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

from pipeline.data.packing import Packed
from sinkhorn_align import Links, Spans


@dataclass
class Pointers:
    """Where masked tokens and the sentences that they may point into lie, found beside the collator: a GPU would have to be
    waited for. The C = 2B sentences are source and target of the first pair, of the second, and so on; int64 all.
    """

    sentence_P: Tensor  # the sentence that each masked token belongs to
    slot_P: Tensor  # its place among that sentence's masked tokens
    other_start_C: Tensor  # first token of the sentence opposite each one
    other_length_C: Tensor  # and its tokens
    most_masked: int  # masked tokens of the sentence that has most
    longest: int  # tokens of the longest sentence

    @staticmethod
    def of(spans: Spans, predicted_P: Tensor) -> Pointers:
        """predicted_P: rising indices into T of the masked tokens, all of them inside the spans; on the CPU."""
        start_B2 = torch.stack([spans.source_start_B, spans.target_start_B], dim=1).long()
        length_B2 = torch.stack([spans.source_length_B, spans.target_length_B], dim=1).long()
        sentence_P = torch.searchsorted(start_B2.flatten(), predicted_P, right=True) - 1
        masked_C = torch.bincount(sentence_P, minlength=start_B2.numel())
        first_C = masked_C.cumsum(0) - masked_C
        slot_P = torch.arange(len(predicted_P)) - first_C[sentence_P]
        others = start_B2.flip(1).flatten(), length_B2.flip(1).flatten()
        return Pointers(sentence_P, slot_P, *others, int(masked_C.max()), int(length_B2.max()))

    def map(self, change: Callable[[Tensor], Tensor]) -> Pointers:
        return replace(
            self,
            sentence_P=change(self.sentence_P),
            slot_P=change(self.slot_P),
            other_start_C=change(self.other_start_C),
            other_length_C=change(self.other_length_C),
        )


@dataclass
class StreamBatch:
    """Blocks or pairs of one stream, masked. All index tensors are int64."""

    masked: Packed  # what the denoising objectives encode
    clean_ids_T: Tensor  # the same tokens before masking
    predicted_P: Tensor  # indices into T of the masked positions
    target_ids_P: Tensor  # the tokens to predict there
    languages_S: np.ndarray  # int32 language (or language pair) of each sequence, in the stream's order
    sample_S: np.ndarray  # int64 global sample index of each sequence
    spans: Spans | None = None  # pairs only; int32, always on the CPU, where the aligner reads lengths
    pointers: Pointers | None = None  # pairs only
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
        pointers = None if self.pointers is None else self.pointers.map(change)
        return replace(self, masked=self.masked.map(change), pointers=pointers, **tensors)


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
