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

from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from data_prep.files import read_json, sha256_of_file, write_text
from pipeline.finetune.files.inputs import Slice, TaskFile
from pipeline.finetune.output import PREDICTIONS, summarise, with_mean, write_predictions
from pipeline.finetune.predict import write_record
from pipeline.finetune.start import fingerprint, read_start
from pipeline.finetune.tasks.task import Features, Scores, Settings, Start, Task
from pipeline.finetune.training import Labelled, fine_tune, outputs_of
from pipeline.finetune.unfinished import check_place, held
from pipeline.weights.export_folder import clear_killed, new_folder
from pipeline.weights.hub import pinned

MODEL, RESULTS = "model", "results.json"


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

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [source.path for source in (*self.train, *([] if self.dev is None else [self.dev]), *self.test)]


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

    With several seeds each has a folder `seed-N` of its own in `out`, and results.json grows with every seed. Where such a call
    was ended before all was done, the same call goes on with the first seed that results.json lacks.

    Raises:
        ValueError: anything wrong with a file, a folder or a setting.
    """
    check_place(out)
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
    described = _described(task, folder, files, settings, name)
    others = {"seeds": [*seeds], "model to keep": keep_model, "tokenizer": str(tokenizer_dir)}
    with held(out, {**described, **others, **_contents(start, files)}):
        outcome = SeedOutcome(name, _runs_of(out), {})
        _say([f"seed {seed}: was done before" for seed in seeds[: len(outcome.runs)]])
        for seed in seeds[len(outcome.runs) :]:
            place = out if len(seeds) == 1 else out / f"seed-{seed}"
            scores = _one_seed(task, start, settings, seed, train, dev, test, place, name, keep_model)
            outcome.runs.append(with_mean(scores, files.trained))
            _write_results(out, described, seeds, outcome.runs)
        outcome.summary = summarise(outcome.runs)
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
            _save(trainer, task, start, settings, out / MODEL)
    return scores


def _save(trainer: Trainer, task: Task[Any, Any], start: Start, settings: Settings, out: Path) -> None:
    """The model, its tokenizer and record, as a folder that is there once it is whole."""
    assert trainer.model is not None, "it was trained"
    size = sum(tensor.numel() * tensor.element_size() for tensor in trainer.model.state_dict().values())
    with new_folder(out, size) as folder:
        trainer.save_model(str(folder))
        (folder / TRAINING_ARGS_NAME).unlink()  # a pickle, which nobody who takes the model needs
        write_record(folder, task, settings)
        if start.sentencepiece is not None:  # which aligning needs, and Transformers leaves out
            start.sentencepiece.save(folder)


@contextmanager
def _nothing_left_over(out: Path, settings: Settings) -> Iterator[None]:
    """Remove what a call that was ended has left of this seed; in the end, also by Ctrl-C, the Trainer's checkpoints."""
    clear_killed(out / MODEL)
    for name in (PREDICTIONS, MODEL):
        shutil.rmtree(out / name, ignore_errors=True)
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


def _described(task: Task[Any, Any], folder: Path, files: Files, settings: Settings, name: str) -> dict[str, Any]:
    """What results.json says before the scores."""
    return {
        "task": task.kind,
        "name": name,
        "model": str(pinned(folder)),
        "settings": asdict(settings),
        **task.described(),
        "files": _files_as_json(files),
    }


def _contents(start: Start, files: Files) -> dict[str, Any]:
    """Hashes of the model and of the files, by which they are known again; of what is no file, as a pipe, none."""
    hashes = [sha256_of_file(path) if path.is_file() else None for path in files.paths]
    return {"weights": fingerprint(start.weights), "contents of files": hashes}


def _write_results(
    out: Path, described: dict[str, Any], seeds: Sequence[int], runs: Sequence[dict[str, Scores]]
) -> None:
    told = [{"seed": seed, "scores": scores} for seed, scores in zip(seeds, runs, strict=False)]
    content = {**described, "runs": told, "summary": summarise(runs)}
    write_text(out / RESULTS, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _runs_of(out: Path) -> list[dict[str, Scores]]:
    """The scores of the seeds that are done already."""
    if not (out / RESULTS).exists():
        return []
    content = read_json(out / RESULTS, "remove the folder, and all is done again")
    return [run["scores"] for run in content["runs"]]


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
