"""What an encoder reads and a decoder writes of it: sources, targets, and which of them belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from data_prep.tokenizers.special_ids import BOS, EOS
from pipeline.data.batch import Change, ViewBatch
from pipeline.data.crossing import Crossing, cross
from pipeline.data.packing import Packed, pack_flat
from pipeline.settings.text_to_text_views import TagPlace

T = TypeVar("T", bound="TextToText")


class Texts(NamedTuple):
    """Token ids of some texts, one text after the other."""

    ids_T: np.ndarray  # int64
    length_R: np.ndarray  # int64, tokens of each

    def framed(self, before: list[np.ndarray], after: list[np.ndarray]) -> Texts:
        """The same with ids around each text. before, after: int64 [R], one vector for each place."""
        end_R = np.cumsum(self.length_R)
        place_RK = np.stack([*[end_R - self.length_R] * len(before), *[end_R] * len(after)], axis=1)
        id_RK = np.stack([*before, *after], axis=1)
        return Texts(np.insert(self.ids_T, place_RK.ravel(), id_RK.ravel()), self.length_R + id_RK.shape[1])


@dataclass
class TextToText(ViewBatch):
    """S sources and R targets; a source may have several, which know nothing of each other."""

    source: Packed
    target: Packed  # what the decoder reads; the first token of each sequence is given, and nobody predicts it
    label_T: Tensor  # int64: the word that follows each of the target's tokens
    crossing: Crossing  # from targets to sources

    @classmethod
    def of(cls: type[T], source: Texts, target: Texts, label_T: np.ndarray, owner_R: np.ndarray) -> T:
        """Packed. label_T: int64, laid out as the target; owner_R: int64, the source of each target."""
        read, written = pack_flat(*source), pack_flat(*target)
        return cls(read, written, torch.from_numpy(label_T), cross(read, written, owner_R))

    @classmethod
    def tagged(cls: type[T], source: Texts, target: Texts, tag_R: np.ndarray, place: TagPlace) -> T:
        """R texts, and what each of them becomes in the language that its tag (int64) names; neither has special tokens.

        A source is `<s> text </s>`, or `<s> tag text </s>`. A target begins with `<s>`, or with the tag in its place, and the
        label of its last token is `</s>`.
        """
        begin_R, end_R = np.full_like(tag_R, BOS), np.full_like(tag_R, EOS)
        at_source = place == "source"
        return cls.of(
            source.framed([begin_R, tag_R] if at_source else [begin_R], [end_R]),
            target.framed([begin_R if at_source else tag_R], []),
            target.framed([], [end_R]).ids_T,
            np.arange(len(tag_R)),
        )

    def map(self, change: Change) -> TextToText:
        return replace(
            self,
            source=self.source.map(change),
            target=self.target.map(change),
            label_T=change(self.label_T),
            crossing=self.crossing.map(change),
        )
