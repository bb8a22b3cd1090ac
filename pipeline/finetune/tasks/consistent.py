"""Classification and tagging with xTune's consistency: each row is also seen said otherwise, anew in every epoch.

The task's loss is on the items as they are; `consistency.example_consistency` is added, between what is said of both views, and
in a second stage, whose rows are doubled by items that are said otherwise, `model_consistency` with the model of the first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.utils import CONFIG_NAME

from pipeline.finetune.augmentation import Augmentation, draw_of
from pipeline.finetune.consistency import Mean, example_consistency, model_consistency
from pipeline.finetune.files.read_pairs import SentencePair
from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.tasks.classification import Classification
from pipeline.finetune.tasks.consistency_trainer import Agreements, ConsistencyTrainer
from pipeline.finetune.tasks.tagging import SPACE_PIECE, Place, Tagging, encode_words
from pipeline.finetune.tasks.task import Features, Settings, Task
from pipeline.finetune.tasks.views import (
    AUGMENTED,
    NOISE,
    OTHER,
    PLACES,
    Remembered,
    View,
    ViewedFeatures,
    collator_of_views,
    joined,
)

ANY_KEY = 2**63 - 1
"""The largest key of noise."""


@dataclass(frozen=True)
class Consistency:
    """How much what is said of both views must agree, and how the other one comes about."""

    augmentation: Augmentation
    weight: float = 5.0
    """λ1, as published for all tasks."""
    mean: Mean = "elements"
    """See `consistency`."""
    first_stage: Path | None = None
    """A model that was trained so before; with it the training data are doubled by items that are said otherwise, on which the
    model must agree with that one too: xTune's second stage."""
    model_weight: float = 5.0
    """λ2, as published for XNLI."""
    hard_labels: bool = False
    """Whether the first stage's best label counts, instead of its distribution; published for PAN-X."""


Frame = tuple[list[int], list[int], list[int]]
"""What stands before, between and after two texts."""


@dataclass
class Saying:
    """What rows are made with."""

    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    encode: Remembered
    """The task's way from words to pieces."""
    frame: Frame


class Consistent(Task[Any, Any]):
    """What the tasks have in common: rows with another view each, in training."""

    consistency: Consistency

    def __init__(self, consistency: Consistency) -> None:
        self.consistency = consistency

    def encode(self, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
        """Pieces of words, each by itself."""
        return encode_words(tokenizer, words)

    def as_it_is(self, row: dict[str, Any], place: Any) -> View:
        """A row of `features`."""
        return View(dict(row))

    def otherwise(
        self, item: Any, row: dict[str, Any], place: Any, draw: random.Random, saying: Saying, as_item: bool
    ) -> View:
        """The same row, said otherwise as `draw` has it.

        as_item: it is trained on as an item, in the second stage.
        """
        raise NotImplementedError

    def of_views(self, outputs: Any, again: Any, batch: dict[str, Tensor]) -> Tensor | None:
        """How far both views are apart."""
        logits, others = (
            at_places(each.logits, batch.get(name)) for each, name in ((outputs, PLACES), (again, f"{OTHER}{PLACES}"))
        )
        return example_consistency(logits, others, self.consistency.mean) if len(logits) else None

    def of_models(self, outputs: Any, taught: Any, batch: dict[str, Tensor]) -> Tensor | None:
        """How far the model and that of the first stage are apart, on augmented rows."""
        augmented = batch[AUGMENTED]
        places = batch[PLACES][augmented] if PLACES in batch else None
        said, wanted = (at_places(each.logits[augmented], places) for each in (outputs, taught))
        how = self.consistency
        return model_consistency(said, wanted, how.mean, how.hard_labels) if len(said) else None

    def with_first_stage(self, folder: Path) -> Consistent:
        """The same task, with the same labels, in its second stage."""
        second = copy(self)
        second.consistency = replace(self.consistency, first_stage=folder)
        return second

    def train_features(self, items: Sequence[Any], tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Features:
        """Rows with other views; with a first stage as many more, of items that are said otherwise."""
        self.consistency.augmentation.prepare(items, tokenizer)
        plain = self.features(items, tokenizer, settings, with_labels=True)
        saying = Saying(tokenizer, settings, Remembered(partial(self.encode, tokenizer)), frame_of(tokenizer))
        times = 1 if self.consistency.first_stage is None else 2
        seen = partial(self._seen, items, plain, saying)
        return ViewedFeatures(plain.rows * times, plain.places * times, plain.notes, seen=seen)

    def _seen(
        self, items: Sequence[Any], plain: Features, saying: Saying, number: int, seed: int, epoch: int
    ) -> dict[str, Any]:
        augmented, at = divmod(number, len(plain.rows))
        row, place = plain.rows[at], plain.places[at]
        index = place[0] if isinstance(place, tuple) else place
        augmentation = self.consistency.augmentation

        def said(what: str) -> View:
            draw = draw_of(seed, epoch, number, what)
            if augmentation.spread:
                view = self.as_it_is(row, place)
                view.row[NOISE] = draw.randint(1, ANY_KEY)
                return view
            item = augmentation.other_item(index, items[index], draw)
            return self.otherwise(item, row, place, draw, saying, what == "item")

        view = said("item") if augmented else self.as_it_is(row, place)
        seen = joined(view, said("view"))
        if augmentation.spread:
            seen.setdefault(NOISE, 0)
        if self.consistency.first_stage is not None:
            seen[AUGMENTED] = bool(augmented)
        return seen

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        usual: Any = super().collator(tokenizer)  # type: ignore[safe-super]  # the tasks below have one
        return collator_of_views(usual)

    def trainer(self, settings: Settings) -> Callable[..., Trainer]:
        how = self.consistency
        agreements = Agreements(self.of_views, how.weight, self.of_models, how.model_weight, how.augmentation.spread)
        return partial(ConsistencyTrainer, agreements=agreements, teacher=self._teacher(settings))

    def _teacher(self, settings: Settings) -> nn.Module | None:
        folder = self.consistency.first_stage
        if folder is None:
            return None
        if not (folder / CONFIG_NAME).is_file():
            raise ValueError(f"--first-stage {folder}: holds no model; give the folder `model` that finetune wrote")
        teacher: PreTrainedModel
        teacher, loading = self.built_by(settings).from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        if loading["missing_keys"]:
            raise ValueError(f"--first-stage {folder}: is a model of another task; give one of {self.kind}")
        numbered: Any = teacher.config.id2label
        labels = [numbered[number] for number in range(len(numbered))]
        if self.labels and labels != self.labels:
            raise ValueError(
                f"--first-stage {folder}: has the labels {', '.join(labels)}, not {', '.join(self.labels)}"
            )
        return teacher.eval().requires_grad_(False)

    def arguments(self, settings: Settings) -> dict[str, Any]:
        return {**super().arguments(settings), "remove_unused_columns": False}

    def described(self) -> dict[str, Any]:
        how = self.consistency
        told = {"weight": how.weight, "mean": how.mean, **how.augmentation.described()}
        if how.first_stage is not None:
            told |= {"first_stage": str(how.first_stage), "model_weight": how.model_weight}
            told |= {"hard_labels": True} if how.hard_labels else {}
        return {"consistency": told}


class ConsistentClassification(Consistent, Classification):
    """See the module."""

    def encode(self, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
        return encode_apart(tokenizer, words)

    def otherwise(
        self, item: SentencePair, row: dict[str, Any], place: int, draw: random.Random, saying: Saying, as_item: bool
    ) -> View:
        sides = []
        for text in (item.first, item.second):
            words = text.split(" ")
            changes = self.consistency.augmentation.changes(words, draw, saying.encode)
            pieces = saying.encode(words)
            sides.append([*chain(*(changes.get(number, pieces[number]) for number in range(len(words))))])
        ids = framed(saying.frame, sides[0], sides[1], saying.settings.max_length)
        return View(row | {"input_ids": ids, "attention_mask": [1] * len(ids)})


def encode_apart(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
    """Pieces of words as they are within a text, with the space before them."""
    pieces: list[list[int]] = tokenizer(list(words), add_special_tokens=False)["input_ids"]
    return pieces


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """How the tokenizer frames two texts."""
    example = tokenizer("a", "b")
    parts = example.sequence_ids(0)
    of_first, of_second = ([at for at, part in enumerate(parts) if part == side] for side in (0, 1))
    ids: list[int] = example["input_ids"]
    return ids[: of_first[0]], ids[of_first[-1] + 1 : of_second[0]], ids[of_second[-1] + 1 :]


def framed(frame: Frame, first: list[int], second: list[int], max_length: int) -> list[int]:
    """A row of two texts in their frame, cut at the end of the longer one, or of both in turn."""
    before, between, after = frame
    room = max_length - len(before) - len(between) - len(after)
    over = max(len(first) + len(second) - room, 0)
    alone = min(over, abs(len(first) - len(second)))  # what the longer one loses before they are equal
    of_each = over - alone
    lost = [of_each // 2, of_each - of_each // 2]
    lost[0 if len(first) > len(second) else 1] += alone
    return [*before, *first[: len(first) - lost[0]], *between, *second[: len(second) - lost[1]], *after]


class ConsistentTagging(Consistent, Tagging):
    """See the module. Words are compared with themselves, those that no longer fit into the row left out."""

    def as_it_is(self, row: dict[str, Any], place: Place) -> View:
        return View(dict(row), place.place_of)

    def otherwise(
        self, item: Sentence, row: dict[str, Any], place: Place, draw: random.Random, saying: Saying, as_item: bool
    ) -> View:
        (first, end), room = place.window, saying.settings.max_length - 2
        words = item.words[first:end]
        changes = self.consistency.augmentation.changes(words, draw, saying.encode)
        usual = saying.encode(words)
        pieces = [_without_space(saying, changes.get(n, usual[n]))[:room] for n in range(len(words))]
        fitting = sum(length <= room for length in accumulate(map(len, pieces)))
        made, starts = self.row_of(pieces[:fitting], saying.tokenizer, saying.settings)
        place_of = {first + n: start for n, start in enumerate(starts) if first + n in place.place_of}
        made["labels"] = self.labels_of(item, place_of, len(made["input_ids"]))
        return View(made, place_of)


def _without_space(saying: Saying, pieces: list[int]) -> list[int]:
    """As words are tagged: without a lone space before other pieces."""
    space = saying.tokenizer.convert_tokens_to_ids(SPACE_PIECE)
    return pieces[1:] if len(pieces) > 1 and pieces[0] == space else pieces


def at_places(logits: Tensor, places_BW: Tensor | None) -> Tensor:
    """Logits [N, C]: of rows as they are, or of the units at their places, -1 left out."""
    if places_BW is None:
        return logits
    there = places_BW >= 0
    rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(places_BW)
    return logits[rows[there], places_BW[there]]
