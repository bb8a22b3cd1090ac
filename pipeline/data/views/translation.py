"""The view "translation": the first side of every pair to be read, the second to be written.

Knows a stream's sequences; nothing of objectives, nor of a decoder.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pipeline.data.assembly import ragged_indices
from pipeline.data.batch import StreamBatch
from pipeline.data.counter_random import TRANSLATION
from pipeline.data.streams import Sequences
from pipeline.data.views.text_to_text import Texts, TextToText
from pipeline.settings.added_words import AddedWords
from pipeline.settings.text_to_text_views import TranslationOptions


class Translated(TextToText):
    """B pairs, each in the direction in which the stream drew it. The tag is of the side that is written."""

    name: ClassVar[str] = "translation"
    counter: ClassVar[int] = TRANSLATION

    @classmethod
    def make(
        cls,
        stream: StreamBatch,
        sequences: Sequences,
        key_S: np.ndarray,
        words: AddedWords,
        options: TranslationOptions,
    ) -> Translated:
        lengths_S2, swapped_S = sequences.side_lengths_S2, sequences.swapped_S
        assert lengths_S2 is not None and swapped_S is not None, "blocks have no sides"
        start_S = np.cumsum(sequences.lengths_S) - sequences.lengths_S + 1  # behind `<s>`
        starts_S2 = np.stack([start_S, start_S + lengths_S2[:, 0] + 1], axis=1)
        source, target = (
            Texts(sequences.ids_T[ragged_indices(starts_S2[:, side], lengths_S2[:, side])], lengths_S2[:, side])
            for side in (0, 1)
        )
        tag_L2 = np.array([[words.tag(language) for language in languages] for languages in sequences.languages])
        return cls.tagged(source, target, tag_L2[sequences.language_S, 1 - swapped_S], options.tag)
