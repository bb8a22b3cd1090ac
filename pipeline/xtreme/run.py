"""XTREME for one model, task by task: what is finished is not done again, what cannot be done is said, and the others go on."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_prep.files import sha256_of_json
from pipeline.evaluate.protocols import choose
from pipeline.finetune.start import EncoderStart, read_start
from pipeline.finetune.tasks.tagging import SUM
from pipeline.finetune.tasks.task import Settings
from pipeline.model.devices import Place
from pipeline.weights.hub import pinned
from pipeline.weights.loading import LoadedModel, load
from pipeline.xtreme.catalog import TASKS, XtremeTask, check_data
from pipeline.xtreme.recipes import SCRIPTS, Changes, Recipe, recipe_of
from pipeline.xtreme.record import PREDICTIONS, finished, held, making
from pipeline.xtreme.results import Outcome, Scores, TaskResult, notes_on_languages
from pipeline.xtreme.retrieval import predict_mining, predict_retrieval
from pipeline.xtreme.submission import prediction_path, read_predictions, score
from pipeline.xtreme.test_sets import TestSet, read_test_set
from pipeline.xtreme.transfer import Material, Mode, read_material, train_and_predict

PROTOCOL = "xtreme"


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    model: Path
    data: Path
    out: Path
    tasks: tuple[XtremeTask, ...]
    seeds: tuple[int, ...]
    grid: str
    changes: Changes
    mode: Mode
    labels: Path | None
    layer: int | None
    """Of sentence vectors, instead of the protocol's."""
    place: Place
    """Where sentence vectors are computed."""
    tokenizer: Path | None = None


class Model:
    """The model in the two forms in which tasks take it, each read when it is first needed."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @cached_property
    def start(self) -> EncoderStart:
        return read_start(self._request.model, self._request.tokenizer)

    @cached_property
    def loaded(self) -> LoadedModel:
        return load(self._request.model, self._request.tokenizer).to(self._request.place)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.start.state)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of all tensors, by which a model is known again."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def run(request: Request) -> Outcome:
    """All tasks that are asked for and have files.

    Raises:
        ValueError: the data folder or the model is none, or `out` belongs to another run.
    """
    check_data(request.data)
    model = Model(request)
    identity = {
        "model": str(pinned(request.model)),
        "weights": model.fingerprint,
        "data": str(request.data.resolve()),
        "mode": request.mode.words,
    }
    outcome = Outcome(identity["model"], request.mode.words, [], {})
    with held(request.out, identity):
        for group in _groups(request, outcome):
            try:
                made = list(_of_group(request, model, group))
            except ValueError as error:
                outcome.failed = True
                outcome.not_done |= dict.fromkeys((task.name for task in group), str(error))
                _say(f"not done: {error}")
                continue
            outcome.results += made
    order = list(TASKS)
    outcome.results.sort(key=lambda result: order.index(result.task.name))
    return outcome


def _groups(request: Request, outcome: Outcome) -> list[list[XtremeTask]]:
    """Tasks that have files, those with the same training data together; the others are said to be not done."""
    groups: dict[str, list[XtremeTask]] = {}
    for task in request.tasks:
        missing = _missing(request, task)
        if missing:
            outcome.not_done[task.name] = missing
            _say(f"not done: {missing}")
        else:
            mode = request.mode
            alone = not task.train or mode.few_shot or mode.translated is not None or mode.dictionaries is not None
            groups.setdefault(task.name if alone else task.train, []).append(task)
    return list(groups.values())


def _missing(request: Request, task: XtremeTask) -> str:
    """Why a task cannot be begun; empty where it can."""
    if task.train and not (request.data / task.train).exists():
        return f"{task.name}: {request.data / task.train}: no such file"
    if not _languages(request, task):
        return f"{task.name}: no test file in any of its languages, as {request.data / task.test}"
    return ""


def _languages(request: Request, task: XtremeTask) -> list[str]:
    return [each for each in task.languages if (request.data / task.test_of(each)).exists()]


def _of_group(request: Request, model: Model, group: Sequence[XtremeTask]) -> Iterator[TaskResult]:
    languages = {task.name: _languages(request, task) for task in group}
    for task in group:
        absent = [each for each in task.languages if each not in languages[task.name]]
        if absent:
            _say(f"note: {task.name}: no test file in {', '.join(absent)}")
    if not group[0].train:
        (task,) = group
        yield _retrieval(request, model, task, languages[task.name])
        return
    trials = Trials(request, model, group, languages)
    for task in group:
        yield trials.result(task)


class Trials:
    """The trainings of tasks that share their training data; one that serves several of them is done once."""

    def __init__(
        self, request: Request, model: Model, group: Sequence[XtremeTask], languages: Mapping[str, Sequence[str]]
    ) -> None:
        self._request, self._model, self._group, self._languages = request, model, group, languages
        self._recipes = {task.name: recipe_of(task.name, request.grid, request.changes) for task in group}

    @cached_property
    def _material(self) -> Material:
        choosing = any(recipe.best_epoch for recipe in self._recipes.values())
        return read_material(self._group, self._request.data, self._languages, self._request.mode, choosing)

    def result(self, task: XtremeTask) -> TaskResult:
        """The task with the best settings by English dev on the first seed, over all seeds."""
        recipe, seeds = self._recipes[task.name], self._request.seeds
        chosen = recipe.candidates[0]
        if len(recipe.candidates) > 1:
            tried = {settings: self._trial(task, settings, seeds[0])["dev"] for settings in recipe.candidates}
            chosen = max(tried, key=lambda settings: tried[settings])
            _say(f"{task.name}: best on dev with {_named(chosen)}: {tried[chosen]:.2f}")
        tests = _test_sets(self._request, task, self._languages[task.name])
        runs = []
        for seed in seeds:
            self._trial(task, chosen, seed)
            runs.append(_scores(tests, self._folder(task, chosen, seed) / PREDICTIONS))
            _say(_told(f"{task.name}, seed {seed}", runs[-1]))
        _submit(self._request, task, self._languages[task.name], self._folder(task, chosen, seeds[0]) / PREDICTIONS)
        how = {"settings": asdict(chosen), "source": recipe.source, "candidates": len(recipe.candidates)}
        notes = notes_on_languages(task, self._languages[task.name], list(runs[0])) + self._notes(task, recipe)
        return TaskResult(task, list(seeds), how, runs, notes)

    def _notes(self, task: XtremeTask, recipe: Recipe) -> list[str]:
        if recipe.best_epoch and not task.dev:
            return [
                f"{task.title}: has no English dev set apart from its test set; the last tenth of the training data chooses"
            ]
        return []

    def _folder(self, task: XtremeTask, settings: Settings, seed: int) -> Path:
        return self._request.out / "trials" / task.name / _named(settings) / f"seed-{seed}"

    def _trial(self, task: XtremeTask, settings: Settings, seed: int) -> dict[str, Any]:
        """What is recorded of a training, which is done unless it is finished."""
        mark = self._finished(task, settings, seed)
        if mark is not None:
            return mark
        recipe = self._recipes[task.name]
        together = [task]
        for other in self._group:
            same = self._recipes[other.name]
            wanted = settings in same.candidates and same.best_epoch == recipe.best_epoch
            needed = len(same.candidates) == 1 or seed == self._request.seeds[0]
            if other is not task and wanted and needed and self._finished(other, settings, seed) is None:
                together.append(other)
        _say(f"{', '.join(each.name for each in together)}: {_named(settings)}, seed {seed}")
        facts: dict[str, Any] = {"settings": asdict(settings), "seed": seed}
        folders = {each.name: self._folder(each, settings, seed) for each in together}
        with ExitStack() as stack:
            for folder in folders.values():
                stack.enter_context(making(folder, facts))
            facts["dev"] = train_and_predict(
                self._material, self._model.start, settings, seed, folders, recipe.best_epoch
            )
        return facts

    def _finished(self, task: XtremeTask, settings: Settings, seed: int) -> dict[str, Any] | None:
        mark, remark = finished(self._folder(task, settings, seed))
        if remark:
            _say(remark)
        wanted = {f"{PREDICTIONS}/{task.name}/test-{each}.{task.suffix}" for each in self._languages[task.name]}
        return mark if mark is not None and wanted <= set(mark["files"]) else None


def _named(settings: Settings) -> str:
    """A name for settings, which tells of those that a user looks for and differs wherever results may."""
    what = asdict(settings)
    for name in ("on_cpu", "report_to", "group_lengths"):  # the last is no option here
        del what[name]
    told = f"lr{settings.learning_rate:g}-epochs{settings.epochs:g}-batch{settings.batch}"
    return f"{told}-{sha256_of_json(what)[:8]}"


def _retrieval(request: Request, model: Model, task: XtremeTask, languages: Sequence[str]) -> TaskResult:
    applied = choose(PROTOCOL, request.layer, model.loaded)
    folder = request.out / "trials" / task.name / f"layer-{applied.layer}"
    mark, remark = finished(folder)
    if remark:
        _say(remark)
    wanted = {f"{PREDICTIONS}/{task.name}/test-{each}.tsv" for each in languages}
    if mark is None or not wanted <= set(mark["files"]):
        _say(f"{task.name}: {applied.vectors}")
        facts: dict[str, Any] = {"protocol": PROTOCOL, "vectors": applied.vectors}
        with making(folder, facts):
            where = folder / PREDICTIONS
            if task.kind == "retrieve":
                predict_retrieval(task, request.data, languages, model.loaded, applied, where)
            else:
                facts["thresholds"] = predict_mining(
                    task, request.data, languages, model.loaded, applied, request.place, where
                )
        mark = facts
    tests = _test_sets(request, task, languages)
    scores = _scores(tests, folder / PREDICTIONS)
    _say(_told(task.name, scores))
    _submit(request, task, languages, folder / PREDICTIONS)
    how = {name: value for name, value in mark.items() if name != "files"}
    return TaskResult(task, [], how, [scores], notes_on_languages(task, languages, list(scores)))


def _test_sets(request: Request, task: XtremeTask, languages: Sequence[str]) -> list[TestSet]:
    return [read_test_set(task, language, request.data, request.labels) for language in languages]


def _scores(tests: Sequence[TestSet], predictions: Path) -> dict[str, Scores]:
    """Of the languages whose answers are known."""
    return {
        test.language: score(test, read_predictions(prediction_path(predictions, test.task, test.language), test))
        for test in tests
        if test.gold is not None
    }


def _submit(request: Request, task: XtremeTask, languages: Sequence[str], predictions: Path) -> None:
    """Put the predictions of the first seed where a submission has them."""
    for language in languages:
        goal = prediction_path(request.out / PREDICTIONS, task, language)
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(prediction_path(predictions, task, language), goal)


def _told(what: str, scores: Mapping[str, Scores]) -> str:
    values = [each["score"] for each in scores.values()]
    return (
        f"{what}: {sum(values) / len(values):.2f} over {len(values)} languages"
        if values
        else f"{what}: no labels, no score"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def footnotes(request: Request, outcome: Outcome) -> list[str]:
    """What differs between this row and the published ones."""
    notes = []
    if request.mode.words != "zero-shot":
        notes.append(f"{request.mode.words}; the published rows are zero-shot")
    if request.grid == "none":
        notes.append(
            f"settings of {SCRIPTS}; the published rows are each the best of a grid on English dev (--grid published)"
        )
    if len(request.seeds) != 5:
        notes.append(
            f"{len(request.seeds)} {'seed' if len(request.seeds) == 1 else 'seeds'}; the published rows are means of five"
        )
    if request.changes.words:
        notes.append(f"not as published: {request.changes.words}")
    seen = "the sum of a word's subwords" if request.changes.subwords == SUM else "a word's first subword"
    notes.append(f"tags are predicted from {seen}; sentences that are too long are tagged by windows that overlap")
    notes += [note for result in outcome.results for note in result.notes]
    return notes + [f"{name}: not done" for name in outcome.not_done]
