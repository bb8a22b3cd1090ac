"""The view "noise": the sentences of blocks with noise on them, to be written as they were (XNLG; Chi et al., AAAI 2020).

Knows a stream's sequences; nothing of objectives, nor of a decoder.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from data_prep.tokenizers.special_ids import BOS, EOS
from pipeline.data.assembly import order_within, ragged_indices
from pipeline.data.batch import StreamBatch
from pipeline.data.counter_random import NOISE, hash_key, uniform
from pipeline.data.streams import Sequences
from pipeline.data.views.text_to_text import Texts, TextToText
from pipeline.settings.added_words import AddedWords
from pipeline.settings.text_to_text_views import NoiseOptions

_OF_SHUFFLE, _OF_DROP, _OF_BLANK = 0, 1, 2
"""What a token's key is mixed with for each of its draws."""
_PARTS = 1 << 20
"""Of a place: as finely do draws tell tokens apart that are shuffled."""


class Noised(TextToText):
    """Every sentence of the blocks as a source of its own, and as it was without noise. The tag is of its own language.

    A sentence that a block begins or ends in is there with its part in the block.
    """

    name: ClassVar[str] = "noise"
    counter: ClassVar[int] = NOISE

    @classmethod
    def make(
        cls, stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: NoiseOptions
    ) -> Noised:
        sentences, sentences_S = sentences_of(sequences)
        number_R = ragged_indices(np.zeros_like(sentences_S), sentences_S)
        key_R = hash_key(np.repeat(key_S, sentences_S), number_R)
        tag_L = np.array([words.tag(language) for (language,) in sequences.languages])
        tag_R = np.repeat(tag_L[sequences.language_S], sentences_S)
        return cls.tagged(add_noise(sentences, key_R, words.known - 1, options), sentences, tag_R, options.tag)


def sentences_of(sequences: Sequences) -> tuple[Texts, np.ndarray]:
    """(the sentences of S blocks, without special tokens; int64 [S], how many of them each block has)."""
    text_T = (sequences.ids_T != BOS) & (sequences.ids_T != EOS)
    end_R = np.flatnonzero(sequences.ids_T == EOS)
    length_R = np.diff(np.cumsum(text_T)[end_R], prepend=0)
    sentences_S = np.diff(np.searchsorted(end_R, np.cumsum(sequences.lengths_S)), prepend=0)
    return Texts(sequences.ids_T[text_T], length_R), sentences_S


def add_noise(sentences: Texts, key_R: np.ndarray, mask_id: int, options: NoiseOptions) -> Texts:
    """Sentences, none of them empty, with their tokens shuffled, dropped and put behind `<mask>`. key_R: uint64.

    Tokens are sorted by their place plus a draw below `shuffle`: none moves farther. At least one stays in every sentence.
    """
    ids_T, length_R = sentences
    first_R = np.cumsum(length_R) - length_R
    sentence_T = np.repeat(np.arange(len(length_R)), length_R)
    place_T = np.arange(len(ids_T)) - first_R[sentence_T]
    drawn = (uniform(hash_key(key_R[sentence_T], place_T, what)) for what in (_OF_SHUFFLE, _OF_DROP, _OF_BLANK))
    shuffle_T, drop_T, blank_T = drawn
    order_T = order_within(sentence_T, (place_T + options.shuffle * shuffle_T) * _PARTS)
    stays_T = (drop_T >= options.drop) | (drop_T == np.maximum.reduceat(drop_T, first_R)[sentence_T])
    seen_T = np.where(blank_T < options.blank, mask_id, ids_T)
    return Texts(seen_T[order_T[stays_T[order_T]]], np.add.reduceat(stays_T, first_R, dtype=np.int64))
