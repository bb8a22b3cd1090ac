"""What an encoder reads and a decoder writes of it: sources, targets, and which of them belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pipeline.data.batch import Change, ViewBatch
from pipeline.data.crossing import Crossing
from pipeline.data.packing import Packed


@dataclass
class TextToText(ViewBatch):
    """S sources and R targets; a source may have several, which know nothing of each other."""

    source: Packed
    target: Packed  # what the decoder reads; the first token of each sequence is given, and nobody predicts it
    label_T: Tensor  # int64: the word that follows each of the target's tokens
    crossing: Crossing  # from targets to sources

    def map(self, change: Change) -> TextToText:
        return replace(
            self,
            source=self.source.map(change),
            target=self.target.map(change),
            label_T=change(self.label_T),
            crossing=self.crossing.map(change),
        )
