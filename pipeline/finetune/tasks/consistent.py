"""Classification and tagging with xTune's example consistency: each item is also seen with words of other languages in it.

The task's loss is on the items as they are; `consistency.example_consistency` is added, between what is said of both, and in a
second stage `consistency.model_consistency` with the model of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.utils import CONFIG_NAME

from pipeline.finetune.code_switching import CodeSwitcher
from pipeline.finetune.consistency import Mean, example_consistency, model_consistency
from pipeline.finetune.files.read_pairs import SentencePair
from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.tasks.classification import Classification
from pipeline.finetune.tasks.tagging import Tagging
from pipeline.finetune.tasks.task import Features, Settings, Task

OTHER = "other_"
"""Begins the names of what is of the item with switched words."""
PLACES = "places"
"""Where the words of a row stand that it shares with the other; -1 is padding."""
AUGMENTED = "augmented"
"""Whether the words of a row were switched before it got another one."""
OURS = (PLACES, AUGMENTED)


@dataclass(frozen=True)
class Consistency:
    """How much what is said of both must agree, and how the other one comes about."""

    switcher: CodeSwitcher
    weight: float = 5.0
    """λ1, as published for all tasks."""
    mean: Mean = "elements"
    """See `consistency`."""
    first_stage: Path | None = None
    """A model that was trained so before; with it the training data are doubled by items with switched words, on which the
    model must agree with that one too: xTune's second stage."""
    model_weight: float = 5.0
    """λ2, as published for XNLI."""


class _Consistent(Task[Any, Any]):
    """What both tasks have: rows with another row each, in training."""

    consistency: Consistency

    def switched(self, item: Any) -> Any:
        """The item with words of other languages."""
        raise NotImplementedError

    def train_features(self, items: Sequence[Any], tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Features:
        """Rows with other rows; with a first stage as many more, of items with switched words."""
        made = self._paired(items, tokenizer, settings)
        if self.consistency.first_stage is None:
            return made
        more = self._paired([self.switched(item) for item in items], tokenizer, settings)
        for augmented, rows in ((False, made.rows), (True, more.rows)):
            for row in rows:
                row[AUGMENTED] = augmented
        notes = {what: made.notes.get(what, 0) + more.notes.get(what, 0) for what in {**made.notes, **more.notes}}
        return Features(made.rows + more.rows, made.places + more.places, notes)

    def _paired(self, items: Sequence[Any], tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Features:
        made = self.features(items, tokenizer, settings, with_labels=True)
        other = self.features([self.switched(item) for item in items], tokenizer, settings, with_labels=False)
        of_item: dict[int, list[int]] = {}
        for number, place in enumerate(other.places):
            of_item.setdefault(_item(place), []).append(number)
        seen: dict[int, int] = {}
        for row, place in zip(made.rows, made.places, strict=True):
            numbers = of_item[_item(place)]
            window = min(seen.get(_item(place), 0), len(numbers) - 1)  # longer words may need fewer or more windows
            seen[_item(place)] = window + 1
            self._join(row, place, other.rows[numbers[window]], other.places[numbers[window]])
        return made

    def _join(self, row: dict[str, Any], place: Any, other: dict[str, Any], other_place: Any) -> None:
        row |= {f"{OTHER}{name}": value for name, value in other.items()}
        if isinstance(place, tuple):
            shared = sorted(set(place[1]) & set(other_place[1]))
            row[PLACES] = [place[1][word] for word in shared]
            row[f"{OTHER}{PLACES}"] = [other_place[1][word] for word in shared]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        usual = super().collator(tokenizer)  # type: ignore[safe-super]  # the tasks below have one

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            own = [{k: v for k, v in row.items() if not k.startswith(OTHER) and k not in OURS} for row in rows]
            batch = dict(usual(own))
            if AUGMENTED in rows[0]:
                batch[AUGMENTED] = torch.tensor([row[AUGMENTED] for row in rows])
            if f"{OTHER}input_ids" not in rows[0]:
                return batch
            other = [{k.removeprefix(OTHER): v for k, v in row.items() if k.startswith(OTHER)} for row in rows]
            for name in (PLACES, f"{OTHER}{PLACES}") if PLACES in rows[0] else ():
                batch[name] = _padded([row[name] for row in rows])
            unplaced = [{k: v for k, v in row.items() if k != PLACES} for row in other]
            return batch | {f"{OTHER}{name}": padded for name, padded in usual(unplaced).items()}

        return collate

    def trainer(self, settings: Settings) -> Callable[..., Trainer]:
        return partial(ConsistencyTrainer, consistency=self.consistency, teacher=self._teacher(settings))

    def _teacher(self, settings: Settings) -> nn.Module | None:
        folder = self.consistency.first_stage
        if folder is None:
            return None
        if not (folder / CONFIG_NAME).is_file():
            raise ValueError(f"--first-stage {folder}: holds no model; give the folder `model` that finetune wrote")
        teacher: PreTrainedModel = self.built_by(settings).from_pretrained(folder, local_files_only=True)
        numbered: Any = teacher.config.id2label
        labels = [numbered[number] for number in range(len(numbered))]
        if labels != self.labels:
            raise ValueError(
                f"--first-stage {folder}: has the labels {', '.join(labels)}, not {', '.join(self.labels)}"
            )
        return teacher.eval().requires_grad_(False)

    def arguments(self, settings: Settings) -> dict[str, Any]:
        return {**super().arguments(settings), "remove_unused_columns": False}

    def described(self) -> dict[str, Any]:
        how = self.consistency
        told = {"weight": how.weight, "mean": how.mean, **how.switcher.described()}
        if how.first_stage is not None:
            told |= {"first_stage": str(how.first_stage), "model_weight": how.model_weight}
        return {"consistency": told}


class ConsistentClassification(_Consistent, Classification):
    """See the module."""

    def __init__(self, consistency: Consistency) -> None:
        self.consistency = consistency

    def switched(self, item: SentencePair) -> SentencePair:
        first, second = (
            " ".join(self.consistency.switcher.switch(side.split(" "))) for side in (item.first, item.second)
        )
        return replace(item, first=first, second=second)


class ConsistentTagging(_Consistent, Tagging):
    """See the module."""

    def __init__(self, consistency: Consistency) -> None:
        self.consistency = consistency

    def switched(self, item: Sentence) -> Sentence:
        return replace(item, words=self.consistency.switcher.switch(item.words))


class ConsistencyTrainer(Trainer):
    """A Trainer that adds consistency to the task's loss while it trains: of examples, and with `teacher` of the model."""

    def __init__(self, *, consistency: Consistency, teacher: nn.Module | None, **more: Any) -> None:
        super().__init__(**more)
        self._consistency, self._teacher = consistency, teacher
        if teacher is not None:
            teacher.to(self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The task's loss, and in training the consistency of the logits of both rows."""
        places, other_places = inputs.pop(PLACES, None), inputs.pop(f"{OTHER}{PLACES}", None)
        augmented = inputs.pop(AUGMENTED, None)
        other = {name: inputs.pop(name) for name in list(inputs) if name.startswith(OTHER)}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        how = self._consistency
        if model.training and other:
            again = model(**{name.removeprefix(OTHER): value for name, value in other.items()})
            logits, others = at_places(outputs.logits, places), at_places(again.logits, other_places)
            if len(logits):
                loss = loss + how.weight * example_consistency(logits, others, how.mean)
        if model.training and self._teacher is not None and augmented is not None and bool(augmented.any()):
            rows = {name: value[augmented] for name, value in inputs.items() if name != "labels"}
            with torch.no_grad():
                taught = self._teacher(**rows).logits
            where = None if places is None else places[augmented]
            wanted, said = at_places(taught, where), at_places(outputs.logits[augmented], where)
            if len(said):
                loss = loss + how.model_weight * model_consistency(said, wanted, how.mean)
        return (loss, outputs) if return_outputs else loss


def at_places(logits: Tensor, places_BW: Tensor | None) -> Tensor:
    """Logits [N, C]: of items as they are, or of the words at their places, -1 left out."""
    if places_BW is None:
        return logits
    there = places_BW >= 0
    rows = torch.arange(len(logits), device=logits.device)[:, None].expand_as(places_BW)
    return logits[rows[there], places_BW[there]]


def _item(place: Any) -> int:
    number: int = place[0] if isinstance(place, tuple) else place
    return number


def _padded(places: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, places))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in places], dtype=torch.long)
