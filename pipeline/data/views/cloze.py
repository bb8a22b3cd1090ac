"""The view "cloze": 15 % of the tokens behind `<mask>`, each with a random number by which another word can be drawn for it.

Knows a stream's batch and `masking`; nothing of objectives, nor of who draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data.batch import Change, StreamBatch, ViewBatch
from pipeline.data.counter_random import CLOZE, hash_key, uniform
from pipeline.data.packing import Packed
from pipeline.data.streams import Sequences
from pipeline.data.views.masking import choose_tokens, places
from pipeline.settings.added_words import AddedWords

_OF_DRAW = 1
"""What a token's key is mixed with for its random number; `choose_tokens` takes 0."""


@dataclass
class Cloze(ViewBatch):
    """The samples of a stream with blanks. Other blanks than the masks of "masked", which stay what they are without it.

    No blank shows a random or its own word: a word that nobody drew would count as replaced.
    """

    name: ClassVar[str] = "cloze"
    counter: ClassVar[int] = CLOZE

    packed: Packed  # what the generator reads; laid out as the stream's clean tokens
    predicted_P: Tensor  # int64: indices into T of the blanks
    target_ids_P: Tensor  # int64: the tokens behind them
    uniform_P: Tensor  # float64 in [0, 1): a function of the sample's key and the token's place alone

    @staticmethod
    def make(stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: None) -> Cloze:
        position_T, key_T = places(sequences, key_S)
        predicted_P = choose_tokens(sequences.ids_T, position_T, key_T, words.known)
        ids_T = sequences.ids_T.copy()
        ids_T[predicted_P] = words.known - 1
        uniform_P = uniform(hash_key(key_T[predicted_P], position_T[predicted_P], _OF_DRAW))
        vectors = (predicted_P, sequences.ids_T[predicted_P], uniform_P)
        return Cloze(stream.clean.with_ids(torch.from_numpy(ids_T)), *map(torch.from_numpy, vectors))

    def map(self, change: Change) -> Cloze:
        return replace(
            self,
            packed=self.packed.map(change),
            predicted_P=change(self.predicted_P),
            target_ids_P=change(self.target_ids_P),
            uniform_P=change(self.uniform_P),
        )
