"""The view "masked": 15 % of the tokens to predict, most of them replaced; for pairs also what each of them may point at.

Knows a stream's batch and `masking`; nothing of objectives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data.batch import Change, StreamBatch, ViewBatch
from pipeline.data.counter_random import MASK
from pipeline.data.packing import Packed
from pipeline.data.streams import Sequences
from pipeline.data.views.masking import mask_by_keys
from pipeline.settings.added_words import AddedWords
from sinkhorn_align import Spans


@dataclass
class Pointers:
    """Where masked tokens and the sentences that they may point into lie, found beside the collator: a GPU would have to be
    waited for, or launch a kernel for each of these lines. The C = 2B sentences are source and target of the first pair, of the
    second, and so on; L is the length of the longest; indices are int64.
    """

    sentence_P: Tensor  # the sentence that each masked token belongs to
    slot_P: Tensor  # its place among that sentence's masked tokens
    start_P: Tensor  # first token of the opposite sentence
    outside_PL: Tensor  # bool, True beyond the opposite sentence's end
    key_CL: Tensor  # the tokens of the sentence opposite each one; beyond its end the last one again
    most_masked: int  # masked tokens of the sentence that has most

    @staticmethod
    def of(spans: Spans, predicted_P: Tensor) -> Pointers:
        """predicted_P: rising indices into T of the masked tokens, all of them inside the spans; on the CPU."""
        start_B2 = torch.stack([spans.source_start_B, spans.target_start_B], dim=1).long()
        length_B2 = torch.stack([spans.source_length_B, spans.target_length_B], dim=1).long()
        sentence_P = torch.searchsorted(start_B2.flatten(), predicted_P, right=True) - 1
        masked_C = torch.bincount(sentence_P, minlength=start_B2.numel())
        first_C = masked_C.cumsum(0) - masked_C
        slot_P = torch.arange(len(predicted_P)) - first_C[sentence_P]
        other_start_C, other_length_C = start_B2.flip(1).flatten(), length_B2.flip(1).flatten()
        column_L = torch.arange(int(length_B2.max()))
        # An empty sentence keeps one column, or its softmax, which nobody asks for, would have no gradient but NaN.
        last_C1 = (other_length_C[:, None] - 1).clamp(min=0)
        return Pointers(
            sentence_P,
            slot_P,
            start_P=other_start_C[sentence_P],
            outside_PL=(column_L > last_C1)[sentence_P],
            key_CL=other_start_C[:, None] + torch.minimum(column_L, last_C1),
            most_masked=int(masked_C.max()),
        )

    def map(self, change: Change) -> Pointers:
        return replace(
            self,
            sentence_P=change(self.sentence_P),
            slot_P=change(self.slot_P),
            start_P=change(self.start_P),
            outside_PL=change(self.outside_PL),
            key_CL=change(self.key_CL),
        )


@dataclass
class MaskedTokens(ViewBatch):
    """The samples of a stream, masked. All index tensors are int64."""

    name: ClassVar[str] = "masked"
    counter: ClassVar[int] = MASK

    packed: Packed  # what the denoising objectives encode; laid out as the stream's clean tokens
    predicted_P: Tensor  # indices into T of the masked positions
    target_ids_P: Tensor  # the tokens to predict there
    pointers: Pointers | None = None  # pairs only

    @staticmethod
    def make(
        stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: None
    ) -> MaskedTokens:
        masked_ids_T, predicted_P = mask_by_keys(sequences, key_S, words.known)
        predicted = torch.from_numpy(predicted_P)
        return MaskedTokens(
            packed=stream.clean.with_ids(torch.from_numpy(masked_ids_T)),
            predicted_P=predicted,
            target_ids_P=torch.from_numpy(sequences.ids_T[predicted_P]),
            pointers=None if stream.spans is None else Pointers.of(stream.spans, predicted),
        )

    def map(self, change: Change) -> MaskedTokens:
        return replace(
            self,
            packed=self.packed.map(change),
            predicted_P=change(self.predicted_P),
            target_ids_P=change(self.target_ids_P),
            pointers=None if self.pointers is None else self.pointers.map(change),
        )
