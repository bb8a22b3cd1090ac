"""The views "apart" and "apart_masked": first and second side of every sample as two batches, and what tells equal texts.

Knows a stream's batch and `masking`; nothing of objectives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data.assembly import ragged_indices
from pipeline.data.batch import Change, StreamBatch, ViewBatch
from pipeline.data.counter_random import APART, APART_MASKED, hash_key
from pipeline.data.packing import Packed, pack_flat
from pipeline.data.streams import Sequences
from pipeline.data.views.masking import mask_by_keys
from pipeline.data.views.sides import sides_of
from pipeline.settings.added_words import AddedWords


@dataclass
class Apart(ViewBatch):
    """B samples, each side as a sequence of its own. Nothing is masked."""

    name: ClassVar[str] = "apart"
    counter: ClassVar[int] = APART

    first: Packed  # B sequences each
    second: Packed
    text_B2: Tensor  # int64: a hash of each side's tokens as they are without masks

    @property
    def sides(self) -> tuple[Packed, Packed]:
        return self.first, self.second

    @classmethod
    def make(
        cls, stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: None
    ) -> Apart:
        ids_T, length_C = sides_of(sequences, cls._seen(sequences, key_S, words.known))
        clean_T, _ = sides_of(sequences, sequences.ids_T)
        length_C = length_C + 2
        start_C = np.cumsum(length_C) - length_C
        one, other = (
            pack_flat(ids_T[ragged_indices(start_C[side::2], length_C[side::2])], length_C[side::2]) for side in (0, 1)
        )
        text_B2 = text_hashes(clean_T, length_C).reshape(-1, 2)
        return cls(one, other, torch.from_numpy(text_B2))

    @classmethod
    def _seen(cls, sequences: Sequences, key_S: np.ndarray, vocab_size: int) -> np.ndarray:
        """What is encoded in place of the sequences' ids."""
        return sequences.ids_T

    def map(self, change: Change) -> Apart:
        first, second = (side.map(change) for side in self.sides)
        return replace(self, first=first, second=second, text_B2=change(self.text_B2))


@dataclass
class ApartMasked(Apart):
    """The same with 15 % of the tokens masked, as `masked` masks them, by draws of its own."""

    name: ClassVar[str] = "apart_masked"
    counter: ClassVar[int] = APART_MASKED

    @classmethod
    def _seen(cls, sequences: Sequences, key_S: np.ndarray, vocab_size: int) -> np.ndarray:
        return mask_by_keys(sequences, key_S, vocab_size)[0]


def text_hashes(ids_T: np.ndarray, length_C: np.ndarray) -> np.ndarray:
    """int64 [C]: equal for sequences of the same ids, and for hardly any others. No sequence is empty."""
    start_C = np.cumsum(length_C) - length_C
    within_T = np.arange(len(ids_T)) - np.repeat(start_C, length_C)
    return np.add.reduceat(hash_key(within_T, ids_T), start_C).view(np.int64)
