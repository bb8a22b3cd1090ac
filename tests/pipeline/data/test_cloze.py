"""Blanks hide words and nothing else, and depend on their sample alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pipeline.data.batch import View
from pipeline.data.streams import Sequences
from pipeline.data.views.cloze import Cloze
from pipeline.data.views.collate import collate
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.settings.added_words import AddedWords

VOCAB_SIZE = 64
MASK = VOCAB_SIZE - 1
WORDS = AddedWords(VOCAB_SIZE)
CLOZE, MASKED = View("mono", "cloze"), View("mono", "masked")
MakeSequences = Callable[..., Sequences]


def test_blanks_are_masks_and_nothing_else_is_touched(make_sequences: MakeSequences) -> None:
    stream = collate(make_sequences([2000, 1000]), 1, WORDS, [CLOZE])
    clean_T, cloze = stream.clean.ids_T, stream.view(Cloze)
    blank_T = torch.zeros_like(clean_T, dtype=torch.bool)
    blank_T[cloze.predicted_P] = True
    assert torch.equal(cloze.packed.ids_T, torch.where(blank_T, MASK, clean_T))
    assert torch.equal(cloze.target_ids_P, clean_T[blank_T])
    assert (clean_T[blank_T] > 3).all(), "no special token is behind a blank"
    assert len(cloze.predicted_P) / 3000 == pytest.approx(0.15, abs=0.03)
    assert ((cloze.uniform_P >= 0) & (cloze.uniform_P < 1)).all() and len(cloze.uniform_P.unique()) > 300


def test_the_view_leaves_the_masks_of_others_alone_and_depends_on_the_sample_alone(
    make_sequences: MakeSequences,
) -> None:
    sequences = make_sequences([50, 60, 70])
    alone, both = (collate(sequences, 1, WORDS, views) for views in ([MASKED], [CLOZE, MASKED]))
    assert torch.equal(alone.view(MaskedTokens).packed.ids_T, both.view(MaskedTokens).packed.ids_T)
    assert not torch.equal(both.view(MaskedTokens).predicted_P, both.view(Cloze).predicted_P)
    last = Sequences(
        sequences.ids[2],
        sequences.lengths_S[2:],
        *(part[2:] for part in (sequences.language_S, sequences.key_S, sequences.sample_S)),
    )
    whole, part = both.view(Cloze), collate(last, 1, WORDS, [CLOZE]).view(Cloze)
    count = len(part.predicted_P)
    assert torch.equal(part.uniform_P, whole.uniform_P[-count:])
    assert torch.equal(part.predicted_P + int(both.clean.offsets_S1[2]), whole.predicted_P[-count:])
