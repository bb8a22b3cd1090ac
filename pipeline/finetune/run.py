"""One call of `finetune`: read everything, and for every seed train, predict and score; the same steps for every task."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINING_ARGS_NAME

from pipeline.finetune.files.inputs import Slice, TaskFile
from pipeline.finetune.output import summarise, with_mean, write_predictions
from pipeline.finetune.predict import write_record
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.task import Features, Scores, Settings, Start, Task
from pipeline.finetune.training import Labelled, fine_tune, outputs_of
from pipeline.host.file_modes import give_usual_modes
from pipeline.weights.hub import pinned


@dataclass(frozen=True)
class Files:
    """Files and which of their items count."""

    train: list[TaskFile]
    dev: TaskFile | None
    test: list[TaskFile]
    train_part: Slice | None = None
    dev_part: Slice | None = None
    test_part: Slice | None = None

    @property
    def trained(self) -> list[str]:
        """Languages of the training data."""
        return sorted({source.language for source in self.train})


@dataclass
class Data:
    """Everything that was read."""

    train: list[Any]
    dev: list[Any] | None
    test: dict[str, list[Any]]


@dataclass
class SeedOutcome:
    """What a call gives: scores of every seed by language, with their mean, and their summary over seeds."""

    name: str
    runs: list[dict[str, Scores]]
    summary: dict[str, dict[str, dict[str, float]]]


def read_data(task: Task[Any, Any], files: Files) -> Data:
    """Read and check all files; the task takes its labels from the training items."""
    train = []
    for source in files.train:
        train += _read(task, source, files.train_part)
    task.learn(files.train[0].path, train)
    dev = None
    if files.dev is not None:
        dev = _read(task, files.dev, files.dev_part)
        if not task.labelled(dev):
            raise ValueError(f"{files.dev.path}: has no labels; the best epoch cannot be chosen by it")
        _say(task.check(files.dev.path, dev))
    test = {}
    for source in files.test:
        test[source.language] = _read(task, source, files.test_part)
        _say(task.check(source.path, test[source.language]))
    return Data(train, dev, test)


def run(
    task: Task[Any, Any],
    folder: Path,
    files: Files,
    settings: Settings,
    seeds: Sequence[int],
    out: Path,
    name: str | None = None,
    tokenizer_dir: Path | None = None,
    keep_model: bool = True,
) -> SeedOutcome:
    """Fine-tune the model of `folder` and write to `out`: predictions, results.json, the model.

    With several seeds each has a folder `seed-N` of its own in `out`, and results.json grows with every seed.

    Raises:
        ValueError: anything wrong with a file, a folder or a setting.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out {out}: is not empty; give a new folder")
    data = read_data(task, files)
    name = name or task.name
    start = task.start(folder, tokenizer_dir) or read_start(folder, tokenizer_dir)
    if settings.max_length > start.longest:
        raise ValueError(
            f"--max-length {settings.max_length}: the model of {folder} takes {start.longest} tokens at most"
        )

    def features(items: Sequence[Any], what: str, with_labels: bool) -> Features:
        made = task.features(items, start.tokenizer, settings, with_labels)
        _say_notes(what, made)
        return made

    train = task.train_features(data.train, start.tokenizer, settings)
    _say_notes("train", train)
    dev = None if data.dev is None else Labelled(data.dev, features(data.dev, "dev", with_labels=True).by_length())
    test = {
        language: Labelled(items, features(items, language, with_labels=False).by_length())
        for language, items in data.test.items()
    }
    labels = f", {len(task.labels)} labels: {', '.join(task.labels)}" if task.labels else ""
    _say([f"{len(data.train):,} items in {len(train.rows):,} rows to train on, {len(test)} test languages{labels}"])
    outcome = SeedOutcome(name, [], {})
    for seed in seeds:
        place = out if len(seeds) == 1 else out / f"seed-{seed}"
        scores = _one_seed(task, start, settings, seed, train, dev, test, place, name, keep_model)
        outcome.runs.append(with_mean(scores, files.trained))
        outcome.summary = summarise(outcome.runs)
        _write_results(out, task, folder, files, settings, seeds, outcome)
    return outcome


def _one_seed(
    task: Task[Any, Any],
    start: Start,
    settings: Settings,
    seed: int,
    train: Features,
    dev: Labelled | None,
    test: dict[str, Labelled],
    out: Path,
    name: str,
    keep_model: bool,
) -> dict[str, Scores]:
    with _nothing_left_over(out, settings):
        trainer = fine_tune(task, start, settings, seed, train, dev, out / "trainer")
        scores = {}
        for language, labelled in test.items():
            items = labelled.items
            predictions = task.predictions(items, labelled.features, outputs_of(trainer, labelled.features))
            path = write_predictions(out, name, language, task.suffix, task.text(items, predictions))
            told = "no labels, no score"
            if task.labelled(items):
                scores[language] = task.score(items, predictions)
                told = ", ".join(f"{metric} {value:.2f}" for metric, value in scores[language].items())
            _say([f"seed {seed}, {language}: {told}; {path}"])
        if keep_model:
            trainer.save_model(str(out / "model"))
            (out / "model" / TRAINING_ARGS_NAME).unlink()  # a pickle, which nobody who takes the model needs
            write_record(out / "model", task, settings)
            if start.sentencepiece is not None:  # which aligning needs, and Transformers leaves out
                start.sentencepiece.save(out / "model")
            give_usual_modes(out / "model")
    return scores


@contextmanager
def _nothing_left_over(out: Path, settings: Settings) -> Iterator[None]:
    """Remove, also where Ctrl-C ends it, what is left of the Trainer's checkpoints: it would block the next start."""
    try:
        yield
    finally:
        if not settings.report_to:
            shutil.rmtree(out / "trainer", ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _read(task: Task[Any, Any], source: TaskFile, part: Slice | None) -> list[Any]:
    items = task.of_language(task.read(source.path), source.language)
    return items if part is None else part.of(items, source.path)


def _write_results(
    out: Path,
    task: Task[Any, Any],
    folder: Path,
    files: Files,
    settings: Settings,
    seeds: Sequence[int],
    outcome: SeedOutcome,
) -> None:
    content = {
        "task": task.kind,
        "name": outcome.name,
        "model": str(pinned(folder)),
        "settings": asdict(settings),
        **task.described(),
        "files": _files_as_json(files),
        "runs": [{"seed": seed, "scores": scores} for seed, scores in zip(seeds, outcome.runs, strict=False)],
        "summary": outcome.summary,
    }
    (out / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _files_as_json(files: Files) -> dict[str, Any]:
    def entry(source: TaskFile, part: Slice | None) -> dict[str, Any]:
        items = None if part is None else f"{part.first}-{part.last}"
        return {"path": str(source.path), "language": source.language, "items": items}

    return {
        "train": [entry(source, files.train_part) for source in files.train],
        "dev": None if files.dev is None else entry(files.dev, files.dev_part),
        "test": [entry(source, files.test_part) for source in files.test],
    }


def _say_notes(what: str, features: Features) -> None:
    _say([f"{what}: {times:,} {note}" for note, times in features.notes.items() if times])


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)
