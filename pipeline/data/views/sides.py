"""The view "sides": the two sentences of every pair as sequences of their own, `<s> source </s>` and `<s> target </s>`.

Knows a stream's batch; nothing of objectives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from data_prep.tokenizers.special_ids import BOS
from pipeline.data.batch import Change, StreamBatch, ViewBatch
from pipeline.data.counter_random import SIDES
from pipeline.data.packing import Packed, pack_flat
from pipeline.data.streams import Sequences
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

    @staticmethod
    def make(stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, vocab_size: int) -> Sides:
        ids_T, length_C = sides_of(sequences, sequences.ids_T)
        packed = pack_flat(ids_T, length_C + 2)
        start_C = packed.offsets_S1[:-1] + 1
        of_spans = (start_C[0::2], length_C[0::2], start_C[1::2], length_C[1::2])
        spans = Spans(*(torch.from_numpy(vector.astype(np.int32)) for vector in of_spans))
        return Sides(packed, spans, torch.from_numpy(start_C), torch.from_numpy(length_C.copy()), int(length_C.max()))

    def grid(self) -> tuple[Tensor, Tensor]:
        """(index into T, int64 [C, L]; whether it is one of the side's own tokens, bool [C, L]) of every side, padded."""
        column_L = torch.arange(self.longest, device=self.start_C.device)
        inside_CL = column_L < self.length_C[:, None]
        return self.start_C[:, None] + torch.where(inside_CL, column_L, 0), inside_CL

    def map(self, change: Change) -> Sides:
        return replace(
            self, packed=self.packed.map(change), start_C=change(self.start_C), length_C=change(self.length_C)
        )
