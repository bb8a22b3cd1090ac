"""Rows of training that are seen in two ways, anew in every epoch. Knows rows; nothing of models or augmentations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.finetune.augmentation import Encode, Pieces
from pipeline.finetune.tasks.task import Features

OTHER = "other_"
"""Begins the names of what is of the row's other view."""
PLACES = "places"
"""Where the units of a row stand that both views share; -1 is padding."""
AUGMENTED = "augmented"
"""Whether a row is an item that is said otherwise itself."""
NOISE = "noise"
"""A row's key of the noise on its embeddings; 0: none."""
LABELS = ("labels", "start_positions", "end_positions")


@dataclass
class View:
    """One way to see a row."""

    row: dict[str, Any]
    places: dict[int, int] | None = None
    """By unit: where it stands; None: the row is one as a whole."""


def joined(view: View, other: View) -> dict[str, Any]:
    """A row with its other view."""
    row = view.row | {f"{OTHER}{name}": value for name, value in other.row.items() if name not in LABELS}
    if view.places is not None and other.places is not None:
        of_other = other.places
        shared = [unit for unit in view.places if unit in of_other]
        row[PLACES] = [view.places[unit] for unit in shared]
        row[f"{OTHER}{PLACES}"] = [of_other[unit] for unit in shared]
    return row


Seen = Callable[[int, int, int], dict[str, Any]]
"""(number of the row, seed, epoch) → the row with its other view."""


@dataclass
class ViewedFeatures(Features):
    """Rows of training, each with another view that is made when it is asked for."""

    seen: Seen = field(kw_only=True)

    def dataset(self, seed: int) -> Any:
        return Views(len(self.rows), self.seen, seed)


class Views(Dataset[dict[str, Any]]):
    """The rows of an epoch, with their other views."""

    def __init__(self, count: int, seen: Seen, seed: int) -> None:
        self._count, self._seen, self._seed = count, seen, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number >= self._count:
            raise IndexError(number)
        return self._seen(number, self._seed, self.epoch)


class Remembered:
    """A way from words to their pieces that has each word encoded once."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: dict[str, Pieces] = {}

    def __call__(self, words: Sequence[str]) -> list[Pieces]:
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        if new:
            self._known.update(zip(new, self._encode(new), strict=True))
        return [self._known[word] for word in words]


Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


def collator_of_views(usual: Collate) -> Collate:
    """What pads rows with their other views, and rows without."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        names = rows[0].keys()
        ours = [name for name in names if name.removeprefix(OTHER) in (PLACES, AUGMENTED, NOISE)]
        own = [name for name in names if name not in ours and not name.startswith(OTHER)]
        others = [name for name in names if name not in ours and name.startswith(OTHER)]
        batch = dict(usual([{name: row[name] for name in own} for row in rows]))
        if others:
            padded = usual([{name.removeprefix(OTHER): row[name] for name in others} for row in rows])
            batch |= {f"{OTHER}{name}": values for name, values in padded.items()}
        for name in ours:
            values = [row[name] for row in rows]
            batch[name] = _padded(values) if name.removeprefix(OTHER) == PLACES else torch.tensor(values)
        return batch

    return collate


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows], dtype=torch.long)
