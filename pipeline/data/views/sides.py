"""The views "sides" and "sides_to_hide": the sentences of every pair as sequences of their own, `<s> source </s>` and so on.

Knows a stream's batch; nothing of objectives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from data_prep.tokenizers.special_ids import BOS
from pipeline.data.batch import Change, StreamBatch, ViewBatch
from pipeline.data.counter_random import SIDES, SIDES_TO_HIDE, hash_key, uniform
from pipeline.data.packing import Packed, pack_flat
from pipeline.data.streams import Sequences
from pipeline.data.views.masking import FIRST_ORDINARY_ID
from pipeline.settings.added_words import AddedWords
from sinkhorn_align import Spans


def sides_of(sequences: Sequences, ids_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sides of B pairs as C = 2B sequences: (their ids, one after the other; their tokens without `<s>` and `</s>`), int64.

    ids_T: those of the sequences, or others laid out as they are.
    """
    lengths_S2 = sequences.side_lengths_S2
    assert lengths_S2 is not None, "blocks have no sides"
    first_S = np.cumsum(sequences.lengths_S) - sequences.lengths_S
    # A pair lies as `<s> source </s> target </s>`: its target lacks a beginning.
    return np.insert(ids_T, first_S + lengths_S2[:, 0] + 2, BOS), lengths_S2.reshape(-1)


@dataclass
class Sides(ViewBatch):
    """B pairs as C = 2B sequences: source and target of the first pair, of the second, and so on. Nothing is masked."""

    name: ClassVar[str] = "sides"
    counter: ClassVar[int] = SIDES

    packed: Packed
    spans: (
        Spans  # of the packed tokens, without special tokens; int32, always on the CPU, where the aligner reads lengths
    )
    start_C: Tensor  # int64: the first token of each side that is no special token
    length_C: Tensor  # int64: and their number
    longest: int  # tokens of the longest side

    @classmethod
    def make(
        cls, stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: None
    ) -> Sides:
        ids_T, length_C = sides_of(sequences, sequences.ids_T)
        packed = pack_flat(ids_T, length_C + 2)
        start_C = packed.offsets_S1[:-1] + 1
        of_spans = (start_C[0::2], length_C[0::2], start_C[1::2], length_C[1::2])
        spans = Spans(*(torch.from_numpy(vector.astype(np.int32)) for vector in of_spans))
        places = torch.from_numpy(start_C), torch.from_numpy(length_C.copy())
        return cls(packed, spans, *places, int(length_C.max()), **cls.beside(ids_T, length_C, key_S, words.known))

    @staticmethod
    def beside(ids_T: np.ndarray, length_C: np.ndarray, key_S: np.ndarray, vocab_size: int) -> dict[str, Any]:
        """What else a view of the sides holds, by its fields. length_C: tokens without `<s>` and `</s>`."""
        return {}

    def grid(self) -> tuple[Tensor, Tensor]:
        """(index into T, int64 [C, L]; whether it is one of the side's own tokens, bool [C, L]) of every side, padded."""
        column_L = torch.arange(self.longest, device=self.start_C.device)
        inside_CL = column_L < self.length_C[:, None]
        return self.start_C[:, None] + torch.where(inside_CL, column_L, 0), inside_CL

    def map(self, change: Change) -> Sides:
        return replace(
            self, packed=self.packed.map(change), start_C=change(self.start_C), length_C=change(self.length_C)
        )


@dataclass
class SidesToHide(Sides):
    """The same with a random number for every token, by which any share of them can be put behind `<mask>`."""

    name: ClassVar[str] = "sides_to_hide"
    counter: ClassVar[int] = SIDES_TO_HIDE

    uniform_T: Tensor  # fp32 in [0, 1), a function of the sample's key and the token's place alone; 1 of special tokens
    mask_id: int

    @staticmethod
    def beside(ids_T: np.ndarray, length_C: np.ndarray, key_S: np.ndarray, vocab_size: int) -> dict[str, Any]:
        end_C = np.cumsum(length_C + 2)
        place_T = np.arange(len(ids_T)) - np.repeat(end_C - length_C - 2, length_C + 2)
        key_T = np.repeat(hash_key(np.repeat(key_S, 2), np.tile([0, 1], len(key_S))), length_C + 2)
        ordinary_T = (ids_T >= FIRST_ORDINARY_ID) & (ids_T < vocab_size - 1)
        uniform_T = np.where(ordinary_T, uniform(hash_key(key_T, place_T)), 1.0)
        return {"uniform_T": torch.from_numpy(uniform_T.astype(np.float32)), "mask_id": vocab_size - 1}

    def hidden(self, rate: float) -> Packed:
        """About this share of the ordinary tokens behind `<mask>`; laid out as `packed`."""
        return self.packed.with_ids(torch.where(self.uniform_T < rate, self.mask_id, self.packed.ids_T))

    def map(self, change: Change) -> Sides:
        moved = super().map(change)
        assert isinstance(moved, SidesToHide)
        return replace(moved, uniform_T=change(self.uniform_T))
