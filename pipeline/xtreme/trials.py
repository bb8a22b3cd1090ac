"""What is done for a table: the trainings of tasks that share their training data, and retrieval, which trains nothing.

Each lies in a folder of its own and is a unit that `sharing` hands out; scores are taken from the folders at the end.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from data_prep.files import output_place, sha256_of_json
from pipeline.evaluate.protocols import AppliedProtocol, choose
from pipeline.finetune.tasks.task import Settings
from pipeline.xtreme.catalog import XtremeTask
from pipeline.xtreme.recipes import Recipe, recipe_of
from pipeline.xtreme.record import PREDICTIONS, finished, making
from pipeline.xtreme.request import Model, Request
from pipeline.xtreme.results import Scores, TaskResult, notes_on_languages
from pipeline.xtreme.retrieval import predict_mining, predict_retrieval
from pipeline.xtreme.sharing import Unit
from pipeline.xtreme.submission import prediction_path, read_predictions, score
from pipeline.xtreme.test_sets import TestSet, read_test_set
from pipeline.xtreme.transfer import Material, read_material, train_and_predict

PROTOCOL = "xtreme"


class Trials:
    """The trainings of tasks that share their training data; one that serves several of them is done once."""

    def __init__(
        self, request: Request, model: Model, group: Sequence[XtremeTask], languages: Mapping[str, Sequence[str]]
    ) -> None:
        self.tasks = group
        self._request, self._model, self._languages = request, model, languages
        layers = model.start.sizes.layers
        self._recipes = {task.name: recipe_of(task.name, request.grid, request.changes, layers) for task in group}
        self._marks: dict[Path, dict[str, Any]] = {}
        """Of trainings that were seen whole: their files are hashed once."""

    def units(self) -> list[Unit]:
        """Trainings to be done now: of a grid all settings on the first seed, then the best ones on the others."""
        found: list[Unit] = []
        for task in self.tasks:
            for settings, seed in self._wanted(task):
                if self._finished(task, settings, seed) is not None:
                    continue
                together = self._together(task, settings, seed)
                folders = tuple(self._folder(each, settings, seed) for each in together)
                if any(set(folders) & set(unit.folders) for unit in found):
                    continue
                name = f"{', '.join(each.name for each in together)}: {_named(settings)}, seed {seed}"
                found.append(Unit(name, folders, partial(self._train, name, together, settings, seed)))
        return found

    def results(self) -> Iterator[TaskResult]:
        """Of every task, once its trainings are finished: the scores of the chosen settings over all seeds."""
        for task in self.tasks:
            recipe, seeds, chosen = self._recipes[task.name], self._request.seeds, self._chosen(task)
            if len(recipe.candidates) > 1:
                dev = self._mark(task, chosen, seeds[0])["dev"]
                say(f"{task.name}: best on dev with {_named(chosen)}: {dev:.2f}")
            languages = self._languages[task.name]
            tests = _test_sets(self._request, task, languages)
            runs = []
            for seed in seeds:
                runs.append(_scores(tests, self._folder(task, chosen, seed) / PREDICTIONS))
                say(_told(f"{task.name}, seed {seed}", runs[-1]))
            _submit(self._request, task, languages, self._folder(task, chosen, seeds[0]) / PREDICTIONS)
            how = {"settings": asdict(chosen), "source": recipe.source, "candidates": len(recipe.candidates)}
            notes = notes_on_languages(task, languages, list(runs[0])) + self._notes(task, recipe)
            yield TaskResult(task, list(seeds), how, runs, notes)

    @cached_property
    def _material(self) -> Material:
        choosing = any(recipe.best_epoch for recipe in self._recipes.values())
        return read_material(self.tasks, self._request.data, self._languages, self._request.mode, choosing)

    def _wanted(self, task: XtremeTask) -> list[tuple[Settings, int]]:
        first, *others = self._request.seeds
        tried = [(settings, first) for settings in self._recipes[task.name].candidates]
        if any(self._finished(task, *each) is None for each in tried):
            return tried
        return [(self._chosen(task), seed) for seed in others]

    def _chosen(self, task: XtremeTask) -> Settings:
        """The best on English dev, with the first seed; of one candidate, that."""
        candidates = self._recipes[task.name].candidates
        if len(candidates) == 1:
            return candidates[0]
        return max(candidates, key=lambda each: self._mark(task, each, self._request.seeds[0])["dev"])

    def _together(self, task: XtremeTask, settings: Settings, seed: int) -> list[XtremeTask]:
        """The task, and those that want the same training."""
        recipe = self._recipes[task.name]
        together = [task]
        for other in self.tasks:
            same = self._recipes[other.name]
            wanted = settings in same.candidates and same.best_epoch == recipe.best_epoch
            needed = len(same.candidates) == 1 or seed == self._request.seeds[0]
            if other is not task and wanted and needed and self._finished(other, settings, seed) is None:
                together.append(other)
        return together

    def _train(self, name: str, together: Sequence[XtremeTask], settings: Settings, seed: int) -> None:
        folders = {each.name: self._folder(each, settings, seed) for each in together}
        for folder in folders.values():
            say_why_again(folder)
        say(name)
        facts: dict[str, Any] = {"settings": asdict(settings), "seed": seed}
        recipe = self._recipes[together[0].name]
        with ExitStack() as stack:
            for folder in folders.values():
                stack.enter_context(making(folder, facts))
            facts["dev"] = train_and_predict(
                self._material, self._model.start, settings, seed, folders, recipe.best_epoch, recipe.second_steps
            )

    def _notes(self, task: XtremeTask, recipe: Recipe) -> list[str]:
        if recipe.best_epoch and not task.dev:
            return [
                f"{task.title}: has no English dev set apart from its test set; the last tenth of the training data chooses"
            ]
        return []

    def _folder(self, task: XtremeTask, settings: Settings, seed: int) -> Path:
        return self._request.out / "trials" / task.name / _named(settings) / f"seed-{seed}"

    def _mark(self, task: XtremeTask, settings: Settings, seed: int) -> dict[str, Any]:
        mark = self._finished(task, settings, seed)
        assert mark is not None, "results are asked for once all is finished"
        return mark

    def _finished(self, task: XtremeTask, settings: Settings, seed: int) -> dict[str, Any] | None:
        folder = self._folder(task, settings, seed)
        if folder not in self._marks:
            mark = _whole(folder, task, self._languages[task.name])
            if mark is None:
                return None
            self._marks[folder] = mark
        return self._marks[folder]


class Retrieval:
    """A task that is done with the model as it is: retrieval, or mining."""

    def __init__(self, request: Request, model: Model, task: XtremeTask, languages: Sequence[str]) -> None:
        self.tasks = [task]
        self._request, self._model, self._task, self._languages = request, model, task, languages

    def units(self) -> list[Unit]:
        """The task, unless it is finished; ValueError where the protocol has no layer for the model."""
        if _whole(self._folder, self._task, self._languages) is not None:
            return []
        return [Unit(self._task.name, (self._folder,), self._predict)]

    def results(self) -> Iterator[TaskResult]:
        """Its scores."""
        mark = _whole(self._folder, self._task, self._languages)
        assert mark is not None, "results are asked for once all is finished"
        tests = _test_sets(self._request, self._task, self._languages)
        scores = _scores(tests, self._folder / PREDICTIONS)
        say(_told(self._task.name, scores))
        _submit(self._request, self._task, self._languages, self._folder / PREDICTIONS)
        how = {name: value for name, value in mark.items() if name != "files"}
        yield TaskResult(self._task, [], how, [scores], notes_on_languages(self._task, self._languages, list(scores)))

    @cached_property
    def _applied(self) -> AppliedProtocol:
        return choose(PROTOCOL, self._request.layer, self._model.loaded)

    @cached_property
    def _folder(self) -> Path:
        return self._request.out / "trials" / self._task.name / f"layer-{self._applied.layer}"

    def _predict(self) -> None:
        task, request, model = self._task, self._request, self._model.loaded
        say_why_again(self._folder)
        say(f"{task.name}: {self._applied.vectors}")
        facts: dict[str, Any] = {"protocol": PROTOCOL, "vectors": self._applied.vectors}
        with making(self._folder, facts):
            where = self._folder / PREDICTIONS
            if task.kind == "retrieve":
                predict_retrieval(task, request.data, self._languages, model, self._applied, where)
            else:
                facts["thresholds"] = predict_mining(
                    task, request.data, self._languages, model, self._applied, request.place, where
                )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def say_why_again(folder: Path) -> None:
    """That a folder is there and does not count, if so; to be asked by whoever has claimed it."""
    remark = finished(folder)[1]
    if remark:
        say(remark)


def _whole(folder: Path, task: XtremeTask, languages: Sequence[str]) -> dict[str, Any] | None:
    """The mark of a folder that is finished, with predictions of all the languages."""
    mark = finished(folder)[0]
    wanted = {f"{PREDICTIONS}/{task.name}/test-{each}.{task.suffix}" for each in languages}
    return mark if mark is not None and wanted <= set(mark["files"]) else None


def _named(settings: Settings) -> str:
    """A name for settings, which tells of those that a user looks for and differs wherever results may."""
    what = asdict(settings)
    for name in ("on_cpu", "report_to"):
        del what[name]
    if not settings.group_lengths:  # which folders that are older than the option do not know
        del what["group_lengths"]
    told = f"lr{settings.learning_rate:g}-epochs{settings.epochs:g}-batch{settings.batch}"
    return f"{told}-{sha256_of_json(what)[:8]}"


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
        with output_place(goal) as place:
            shutil.copyfile(prediction_path(predictions, task, language), place)


def _told(what: str, scores: Mapping[str, Scores]) -> str:
    values = [each["score"] for each in scores.values()]
    return (
        f"{what}: {sum(values) / len(values):.2f} over {len(values)} languages"
        if values
        else f"{what}: no labels, no score"
    )
