"""From samples to a batch: packed, with the views of them that somebody reads and no others.

Knows the kinds of views by name; nothing of the objectives that read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.data import counter_random
from pipeline.data.batch import StreamBatch, View, ViewBatch
from pipeline.data.counter_random import hash_key
from pipeline.data.packing import pack_flat
from pipeline.data.streams import Sequences
from pipeline.data.views.apart import Apart, ApartMasked
from pipeline.data.views.cloze import Cloze
from pipeline.data.views.given_links import GivenLinks
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.data.views.noise import Noised
from pipeline.data.views.sides import Sides, SidesToHide
from pipeline.data.views.spans import Spans as HiddenSpans
from pipeline.data.views.translation import Translated
from pipeline.settings.added_words import AddedWords
from sinkhorn_align import Spans


class Kind(Protocol):
    """A kind of view, as a class of `ViewBatch` is one."""

    @property
    def name(self) -> str:
        """What objectives call it in `reads`."""

    @property
    def counter(self) -> int:
        """What its keys are mixed with: a number of its own, so that no view's draws depend on which others are made."""

    def make(
        self, stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: Any, /
    ) -> ViewBatch:
        """The view of samples that are packed already.

        key_S: uint64, a key for each sequence, of this kind of view alone; options: the kind's own, None where it has none.
        """


_KINDS: dict[str, Kind] = {}


def add_kind(kind: Any) -> Any:
    """Make a kind of view known to `collate`; a decorator for its class."""
    taken = {*counter_random.NO_VIEWS, *(k.counter for k in _KINDS.values())}
    assert kind.name not in _KINDS and kind.counter not in taken, f"a view {kind.name} or its counter is known already"
    _KINDS[kind.name] = kind
    return kind


add_kind(MaskedTokens)
add_kind(Sides)
add_kind(SidesToHide)
add_kind(GivenLinks)
add_kind(Cloze)
add_kind(Apart)
add_kind(ApartMasked)
add_kind(HiddenSpans)
add_kind(Noised)
add_kind(Translated)


def collate(sequences: Sequences, seed: int, words: AddedWords, views: Iterable[View]) -> StreamBatch:
    """Pack samples of one stream, and make these views of them."""
    clean = pack_flat(sequences.ids_T, sequences.lengths_S)
    stream = StreamBatch(clean, sequences.language_S, sequences.sample_S)
    if sequences.side_lengths_S2 is not None:
        source_start, source_length = clean.offsets_S1[:-1] + 1, sequences.side_lengths_S2[:, 0]
        vectors = (source_start, source_length, source_start + source_length + 1, sequences.side_lengths_S2[:, 1])
        stream.spans = Spans(*(torch.from_numpy(vector.astype(np.int32)) for vector in vectors))
    for view in views:
        kind = _KINDS[view.name]
        key_S = hash_key(seed, kind.counter, sequences.key_S)
        stream.views[view] = kind.make(stream, sequences, key_S, words, view.options)
    return stream
