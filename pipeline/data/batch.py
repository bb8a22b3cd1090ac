"""What one rank works on in one micro-step: the samples of each stream, packed, and the views of them that objectives read.

Built by `views.collate`, read by objectives; knows neither of them, and nothing of what is drawn or labelled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data.packing import Packed
from sinkhorn_align import Spans

Change = Callable[[Tensor], Tensor]


class View(NamedTuple):
    """What an objective reads: a stream ("mono", "pairs", "contrast"), and the name of a view of it ("masked").

    options: of a kind of view that has any, a frozen dataclass; objectives may read one kind with different options.
    """

    stream: str
    name: str
    options: Hashable = None


class ViewBatch(ABC):
    """A view of some samples: what one objective, or several, see of them. A subclass says which view it is."""

    @abstractmethod
    def map(self, change: Change) -> ViewBatch:
        """The same view with every tensor changed."""


V = TypeVar("V", bound=ViewBatch)


@dataclass
class StreamBatch:
    """Blocks or pairs of one stream."""

    clean: Packed
    languages_S: np.ndarray  # int32 language (or language pair) of each sequence, in the stream's order
    sample_S: np.ndarray  # int64 global sample index of each sequence
    spans: Spans | None = None  # pairs only; int32, always on the CPU, where the aligner reads lengths
    views: dict[View, ViewBatch] = field(default_factory=dict)  # those that somebody reads

    def view(self, kind: type[V]) -> V:
        """The view of this kind, which an objective has if it reads it."""
        return next(view for view in self.views.values() if isinstance(view, kind))

    def map(self, change: Change) -> StreamBatch:
        """The same batch with every tensor but the spans changed."""
        views = {which: view.map(change) for which, view in self.views.items()}
        return replace(self, clean=self.clean.map(change), views=views)


@dataclass
class MicroBatch:
    """The streams of one micro-step by name ("mono", "pairs", "contrast")."""

    streams: dict[str, StreamBatch] = field(default_factory=dict)

    def __contains__(self, view: View) -> bool:
        return view.stream in self.streams and view in self.streams[view.stream].views

    def __getitem__(self, stream: str) -> StreamBatch:
        return self.streams[stream]

    def of(self, view: View) -> ViewBatch:
        """A view that is in the batch: what an objective has of those that it reads."""
        return self.streams[view.stream].views[view]

    @property
    def tokens(self) -> int:
        """Tokens in all streams; there is no padding to leave out."""
        return sum(stream.clean.tokens for stream in self.streams.values())

    def map(self, change: Change) -> MicroBatch:
        """The same micro-batch with every tensor changed, once: views share their stream's layout, and go on to."""
        changed = _once(change)
        return MicroBatch({name: stream.map(changed) for name, stream in self.streams.items()})

    def pinned(self) -> MicroBatch:
        """In page-locked memory, from which copies to a GPU do not wait."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> MicroBatch:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def _once(change: Change) -> Change:
    """`change`, which gives the same tensor for the same tensor."""
    # Each is kept beside what it became: the id of one that is gone may be given to another.
    done: dict[int, tuple[Tensor, Tensor]] = {}

    def changed(tensor: Tensor) -> Tensor:
        if id(tensor) not in done:
            done[id(tensor)] = tensor, change(tensor)
        return done[id(tensor)][1]

    return changed
