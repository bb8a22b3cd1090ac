"""From samples to micro-batches for a rank in a micro-step, by arithmetic on its position.

Nothing here has state that a checkpoint would have to save: (seed, step, micro-step, rank) decide every token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import MicroBatch, StreamBatch, View
from pipeline.data.blend import Stage
from pipeline.data.streams import BatchPlan, Sequences, open_streams
from pipeline.data.views.collate import collate
from pipeline.data.views.given_links import GivenLinks
from pipeline.settings.added_words import AddedWords


class TrainingData:
    """The streams of a run over one DATA_DIR."""

    def __init__(
        self,
        manifest: Manifest,
        views: Iterable[View],
        *,
        alpha: float,
        seed: int,
        limits: dict[str, int],
        stages: Mapping[str, Sequence[Stage]] | None = None,
        mixing: str = "none",
        words: AddedWords | None = None,
    ) -> None:
        """
        Args:
            views: what is read; each stream is opened that has one of them.
            mixing: of the stream "contrast".
            words: those that views may write beside the manifest's; None: no others.
        """
        self.words, self.seed = words or AddedWords(manifest.vocab_size), seed
        assert self.words.known == manifest.vocab_size, "the added words follow those of the token files"
        self.views: dict[str, list[View]] = {}
        for view in sorted(dict.fromkeys(views), key=lambda view: (view.stream, view.name)):
            self.views.setdefault(view.stream, []).append(view)
        self.streams = open_streams(
            manifest,
            list(self.views),
            alpha=alpha,
            seed=seed,
            limits=limits,
            stages=stages,
            mixing=mixing,
            with_links=any(view.name == GivenLinks.name for of_stream in self.views.values() for view in of_stream),
        )

    def micro_batch(self, plan: BatchPlan, step: int, micro_step: int, rank: int) -> MicroBatch:
        """What `rank` works on in one micro-step; counted from 0."""
        return MicroBatch(
            {
                name: self._collate(name, stream.samples(plan.indices(name, step, micro_step, rank)))
                for name, stream in self.streams.items()
            }
        )

    def head(self, stream: str, language: int, indices: np.ndarray) -> MicroBatch:
        """Samples of one stream and language in file order, the same whenever they are asked for: for validation."""
        return MicroBatch({stream: self._collate(stream, self.streams[stream].head(language, indices))})

    def _collate(self, stream: str, sequences: Sequences) -> StreamBatch:
        return collate(sequences, self.seed, self.words, self.views[stream])
