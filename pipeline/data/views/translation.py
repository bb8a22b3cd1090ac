"""The view "translation": one side of every pair to be read, the other to be written.

Knows a stream's sequences; nothing of objectives, nor of a decoder.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pipeline.data.assembly import ragged_indices
from pipeline.data.batch import StreamBatch
from pipeline.data.counter_random import TRANSLATION
from pipeline.data.directions import trained_ways
from pipeline.data.streams import Sequences
from pipeline.data.views.text_to_text import Texts, TextToText
from pipeline.settings.added_words import AddedWords
from pipeline.settings.text_to_text_views import TranslationOptions


class Translated(TextToText):
    """B pairs, each in the direction in which the stream drew it, or in the other where only that is trained.

    The tag is of the side that is written.
    """

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
        pair_S = np.arange(len(swapped_S))
        trained_S2 = trained_ways(sequences.languages, options.directions)[sequences.language_S]
        drawn_S = swapped_S.astype(np.int64)
        # The packed side that is read: the first, unless the other way alone is trained.
        read_S = (~trained_S2[pair_S, drawn_S] & trained_S2[pair_S, 1 - drawn_S]).astype(np.int64)
        start_S = np.cumsum(sequences.lengths_S) - sequences.lengths_S + 1  # behind `<s>`
        starts_S2 = np.stack([start_S, start_S + lengths_S2[:, 0] + 1], axis=1)
        source, target = (
            Texts(
                sequences.ids_T[ragged_indices(starts_S2[pair_S, side_S], lengths_S2[pair_S, side_S])],
                lengths_S2[pair_S, side_S],
            )
            for side_S in (read_S, 1 - read_S)
        )
        tag_L2 = np.array([[words.tag(language) for language in languages] for languages in sequences.languages])
        return cls.tagged(source, target, tag_L2[sequences.language_S, 1 - (drawn_S ^ read_S)], options.tag)
