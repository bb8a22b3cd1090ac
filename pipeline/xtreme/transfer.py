"""Fine-tuning for the tasks that are trained, on English or more, with the settings of a trial; predictions of every language.

Knows the tasks' files and Hugging Face's Trainer by way of `pipeline.finetune`; nothing of scores or of which trials there are.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.finetune.start import EncoderStart
from pipeline.finetune.tasks.classification import Classification
from pipeline.finetune.tasks.consistent import Consistent
from pipeline.finetune.tasks.question_answering import QuestionAnswering
from pipeline.finetune.tasks.tagging import Tagging
from pipeline.finetune.tasks.task import Features, Settings, Task
from pipeline.finetune.training import Labelled, fine_tune, outputs_of
from pipeline.xtreme.catalog import ENGLISH, LANGUAGE, TASKS, XtremeTask
from pipeline.xtreme.record import PREDICTIONS
from pipeline.xtreme.submission import prediction_path
from pipeline.xtreme.translations import read_translated, sought
from pipeline.xtreme.xtune import consistent_kind

HELD_OUT = 10
"""Where a task has no English dev set, every so many-th part of the training data, at its end, chooses in its stead."""


TRAIN = "train"
FIRST_STAGE = "first-stage"
"""Folder of a trial, while it lasts, with the model of xTune's first stage."""


class SpanTagging(Tagging):
    """Tagging whose best epoch is that of the best F1 over spans, of POS tags too, as XTREME's run_tag.py has it."""

    @property
    def headline(self) -> str:
        return "f1"


def kind_of(task: XtremeTask, dictionaries: Path | None, stage: int = 1) -> Task[Any, Any]:
    """How a task is trained; stage: of xTune, where there are dictionaries."""
    if dictionaries is not None:
        return consistent_kind(task, dictionaries, stage)
    if task.kind == "qa":
        return QuestionAnswering()
    return Classification() if task.kind == "classify" else SpanTagging()


@dataclass(frozen=True)
class Mode:
    """What a model is trained on."""

    few_shot: int = 0
    """So many labelled items of every other language of the task are trained on beside English."""
    translated: Path | None = None
    """A folder with the English training data in other languages, all of which are trained on: see `translations`."""

    dictionaries: Path | None = None
    """A folder with MUSE's dictionaries, `en-LANGUAGE.txt`: all tasks are trained as xTune trains them."""
    stages: int = 1
    """Of xTune, 1 or 2: in the second a model must also agree with that of the first."""

    @property
    def words(self) -> str:
        """What it is called."""
        if self.dictionaries is None:
            return self._data
        return f"{self._data}, with {'both stages' if self.stages == 2 else 'the first stage'} of xTune"

    @property
    def _data(self) -> str:
        if self.translated is not None:
            return "translate-train-all"
        return f"few-shot, {self.few_shot} items a language" if self.few_shot else "zero-shot"


@dataclass
class Material:
    """What all trainings of tasks with the same training data share."""

    task: Task[Any, Any]
    train: list[Any]
    dev: list[Any] | None
    tests: dict[tuple[str, str], list[Any]]
    """By the task's name and the language."""
    trained: list[str]
    """Languages of the training data."""
    second: Consistent | None = None
    """How xTune's second stage is trained, where there is to be one."""
    _features: dict[tuple[Any, ...], Features] = field(default_factory=dict)

    def features(
        self, start: EncoderStart, settings: Settings, what: Any, items: Sequence[Any], with_labels: bool
    ) -> Features:
        """Rows of items, made once for all trainings with rows of the same lengths."""
        key = (what, settings.max_length, settings.stride)
        if key not in self._features:
            self._features[key] = self.task.features(items, start.tokenizer, settings, with_labels).by_length()
        return self._features[key]

    def training(self, start: EncoderStart, settings: Settings, task: Task[Any, Any], stage: int) -> Features:
        """Rows to train on in a stage, made once likewise."""
        key = (TRAIN, stage, settings.max_length, settings.stride)
        if key not in self._features:
            self._features[key] = task.train_features(self.train, start.tokenizer, settings)
        return self._features[key]


def read_material(
    tasks: Sequence[XtremeTask], data: Path, languages: Mapping[str, Sequence[str]], mode: Mode, choosing: bool
) -> Material:
    """Everything that tasks of the same training data are trained, chosen and tested on.

    languages: by task those that have a test file.
    choosing: whether dev is needed.

    Raises:
        ValueError: a file is missing or not as it should be, or has labels that training cannot teach; names it.
    """
    first = tasks[0]
    kind = kind_of(first, mode.dictionaries)
    path = data / first.train
    train = kind.read(path)
    kind.learn(path, train)
    dev = None
    if choosing and first.dev:
        dev = kind.read(data / first.dev)
        kind.check(data / first.dev, dev)
    elif choosing:
        held = max(len(train) // HELD_OUT, 1)
        train, dev = train[:-held], train[-held:]
    trained = [ENGLISH]
    for language, items in more_items(kind, tasks, data, mode).items():
        train += items
        trained.append(language)
    tests = {}
    for task in tasks:
        for language in languages[task.name]:
            test = data / task.test_of(language)
            tests[task.name, language] = kind.read(test)
            for remark in kind.check(test, tests[task.name, language]):
                print(f"note: {remark}", file=sys.stderr)
    second = None
    if mode.stages == 2 and mode.dictionaries is not None:
        second = consistent_kind(first, mode.dictionaries, 2, translated=mode.translated is not None)
        second.labels = kind.labels
    return Material(kind, train, dev, tests, trained, second)


def more_items(kind: Task[Any, Any], tasks: Sequence[XtremeTask], data: Path, mode: Mode) -> dict[str, list[Any]]:
    """What is trained on beside English, by language; ValueError where there is nothing."""
    found: dict[str, list[Any]] = {}
    first = tasks[0]
    for language in sorted({each for task in tasks for each in task.languages} - {ENGLISH}):
        if mode.translated is not None:
            translated = read_translated(kind, first, mode.translated, language)
            if translated is not None:
                found[language] = translated
            continue
        path = data / first.few.replace(LANGUAGE, language)
        if not (mode.few_shot and first.few and path.exists()):
            continue
        items = kind.read(path)
        if not kind.labelled(items):
            raise ValueError(f"{path}: has no labels to train on")
        kind.check(path, items)
        found[language] = items[: mode.few_shot]
    if not found and mode.translated is not None:
        raise ValueError(f"{sought(mode.translated, first)}: no such file for any language of {first.name}")
    if not found and mode.few_shot:
        wanted = data / first.few if first.few else "other languages than English"
        raise ValueError(f"{first.name}: --few-shot {mode.few_shot}: no labelled items in {wanted}")
    return found


def train_and_predict(
    material: Material,
    start: EncoderStart,
    settings: Settings,
    seed: int,
    folders: Mapping[str, Path],
    choosing: bool,
    second_steps: int | None = None,
) -> float | None:
    """Fine-tune once, and write every language's predictions of the tasks in `folders` (by name) there.

    choosing: whether dev chooses the epoch.
    second_steps: the most that xTune's second stage has.

    Returns:
        The best score on dev; None where nothing was chosen.

    Raises:
        ValueError: the model takes fewer tokens than the settings have.
    """
    if settings.max_length > start.longest:
        raise ValueError(
            f"{start.folder}: takes {start.longest} tokens, and rows of {settings.max_length} are published; "
            "leave the task out with --tasks"
        )
    dev = None
    if choosing:
        assert material.dev is not None, "read where it is needed"
        dev = Labelled(material.dev, material.features(start, settings, "dev", material.dev, True))
    folder = next(iter(folders.values()))
    task = material.task
    try:
        train = material.training(start, settings, task, 1)
        trainer = fine_tune(task, start, settings, seed, train, dev, folder / "trainer")
        if material.second is not None:
            trainer.save_model(str(folder / FIRST_STAGE))
            shutil.rmtree(folder / "trainer", ignore_errors=True)
            task = material.second.with_first_stage(folder / FIRST_STAGE)
            train = material.training(start, settings, task, 2)
            trainer = fine_tune(task, start, settings, seed, train, dev, folder / "trainer", second_steps)
        for (name, language), items in material.tests.items():
            if name not in folders:
                continue
            features = material.features(start, settings, (name, language), items, False)
            found = task.predictions(items, features, outputs_of(trainer, features))
            written = prediction_path(folders[name] / PREDICTIONS, TASKS[name], language)
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(task.text(items, found), encoding="utf-8", newline="\n")
    finally:
        for name in ("trainer", FIRST_STAGE):
            shutil.rmtree(folder / name, ignore_errors=True)
    return trainer.state.best_metric if choosing else None
