"""Blocks and pairs of chosen sentences, and views of text to text as lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.tokenizers.special_ids import BOS, EOS
from pipeline.data.batch import View
from pipeline.data.counter_random import hash_key
from pipeline.data.packing import Packed
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.data.views.text_to_text import TextToText
from pipeline.settings.added_words import AddedWords

Ids = list[int]
KNOWN, MASK = 64, 63
LANGUAGES = ("de", "en", "zh")
WORDS = AddedWords(KNOWN, sentinels=200, languages=LANGUAGES)


def blocks(sentences_S: Sequence[Sequence[Ids]], seed: int = 0, languages: Sequence[int] = ()) -> Sequences:
    """Blocks of these sentences. languages: the number of each block's in LANGUAGES; none: all of the first."""
    ids = [[BOS, *(id for sentence in block for id in (*sentence, EOS))] for block in sentences_S]
    of_block = np.array(languages or [0] * len(ids), dtype=np.int32)
    numbers = np.arange(len(ids))
    named = [(name,) for name in LANGUAGES]
    lengths = np.array([len(block) for block in ids])
    return Sequences(np.concatenate(ids), lengths, of_block, hash_key(seed, numbers), numbers, None, named)


def pairs(sides_S: Sequence[tuple[Ids, Ids]], seed: int = 0, swapped: Sequence[bool] = ()) -> Sequences:
    """Pairs of these sides, as they come: `swapped` says of which the second language comes first. They are de-en and zh-en."""
    ids = [[BOS, *source, EOS, *target, EOS] for source, target in sides_S]
    numbers, lengths = np.arange(len(ids)), np.array([len(pair) for pair in ids])
    sides_S2 = np.array([[len(source), len(target)] for source, target in sides_S])
    turned = np.array(swapped or [False] * len(ids))
    named = [("de", "en"), ("zh", "en")]
    language = (numbers % 2).astype(np.int32)
    return Sequences(np.concatenate(ids), lengths, language, hash_key(seed, numbers), numbers, sides_S2, named, turned)


def only(sequences: Sequences, places: Sequence[int]) -> Sequences:
    """Some of the sequences, in this order."""
    at = np.array(places)
    sides, swapped = sequences.side_lengths_S2, sequences.swapped_S
    return Sequences(
        np.concatenate([sequences.ids[place] for place in places]),
        *(vector[at] for vector in (sequences.lengths_S, sequences.language_S, sequences.key_S, sequences.sample_S)),
        None if sides is None else sides[at],
        sequences.languages,
        None if swapped is None else swapped[at],
    )


class Target(NamedTuple):
    """What a decoder reads and is to say of it."""

    owner: int
    read: Ids
    labels: Ids


def view_of(sequences: Sequences, name: str, options: Any, words: AddedWords = WORDS, seed: int = 1) -> TextToText:
    stream = "mono" if sequences.side_lengths_S2 is None else "pairs"
    view = View(stream, name, options)
    made = collate(sequences, seed, words, [view]).views[view]
    assert isinstance(made, TextToText)
    return made


def lists(packed: Packed, ids_T: Tensor | None = None) -> list[Ids]:
    """The ids of every sequence, or what else lies as they do."""
    return [
        part.tolist() for part in (packed.ids_T if ids_T is None else ids_T).split(packed.sequence_lengths.tolist())
    ]


def targets_of(view: TextToText) -> list[Target]:
    both = lists(view.target), lists(view.target, view.label_T)
    return [Target(*row) for row in zip(view.crossing.owner_R.tolist(), *both, strict=True)]


def by_source(view: TextToText) -> list[tuple[Ids, list[tuple[Ids, Ids]]]]:
    """Every source with what is to be written of it."""
    found: list[tuple[Ids, list[tuple[Ids, Ids]]]] = [(source, []) for source in lists(view.source)]
    for owner, read, labels in targets_of(view):
        found[owner][1].append((read, labels))
    return found


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a view, wherever they lie; those of a padded layout as they are where the batch is."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        layout = [value.place_T, *tensors(value.groups)] if isinstance(value, Packed) else []
        return [tensor for field in fields(value) for tensor in tensors(getattr(value, field.name))] + layout
    return [tensor for part in value for tensor in tensors(part)] if isinstance(value, list) else []


def assert_all_move(view: TextToText) -> None:
    """`map` leaves no tensor where it is, and the padded layout follows; nothing else changes."""
    moved = view.map(lambda tensor: tensor.to("meta"))
    assert type(moved) is type(view)
    here, there = tensors(view), tensors(moved)
    assert len(here) == len(there) > 10
    assert all(tensor.device == torch.device("meta") for tensor in there)
    assert [tensor.shape for tensor in here] == [tensor.shape for tensor in there]
