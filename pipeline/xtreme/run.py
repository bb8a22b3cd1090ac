"""XTREME for one model, task by task: what is finished is not done again, what cannot be done is said, and the others go on."""

from __future__ import annotations

from collections.abc import Callable

from data_prep.files import locked
from pipeline.finetune.tasks.tagging import SUM
from pipeline.weights.hub import pinned
from pipeline.xtreme.catalog import TASKS, XtremeTask, check_data
from pipeline.xtreme.recipes import SCRIPTS, XTUNE
from pipeline.xtreme.record import LOCK, begin
from pipeline.xtreme.request import Model, Request
from pipeline.xtreme.results import Outcome
from pipeline.xtreme.sharing import share
from pipeline.xtreme.trials import Retrieval, Trials, say


def run(request: Request, with_help: Callable[[], None] | None = None) -> Outcome:
    """All tasks that are asked for and have files; what other commands with the same folder are at is waited for.

    with_help: called before anything is done here, to have others do what they can.

    Raises:
        ValueError: the data folder or the model is none, or `out` belongs to another run.
    """
    groups, outcome = _begun(request, say)
    if with_help is not None:
        with_help()
    failed = share(request.out, groups)
    with locked(request.out / LOCK, wait=True):  # others write the same submission
        for index, group in enumerate(groups):
            try:
                if index not in failed:
                    outcome.results += list(group.results())
            except ValueError as error:
                failed[index] = str(error)
                say(f"not done: {error}")
    for index, why in failed.items():
        outcome.failed = True
        outcome.not_done |= dict.fromkeys((task.name for task in groups[index].tasks), why)
    order = list(TASKS)
    outcome.results.sort(key=lambda result: order.index(result.task.name))
    return outcome


def work(request: Request) -> None:
    """Of `run` what takes time, for a process that helps: nothing is scored, and what there is not is told by who is helped."""
    groups, _ = _begun(request, lambda line: None)
    share(request.out, groups)


def _begun(request: Request, tell: Callable[[str], None]) -> tuple[list[Trials | Retrieval], Outcome]:
    """What there is to do in `out`, and an outcome that says what there is not."""
    check_data(request.data)
    model = Model(request)
    identity = {
        "model": str(pinned(request.model)),
        "weights": model.fingerprint,
        "data": str(request.data.resolve()),
        "mode": request.mode.words,
    }
    outcome = Outcome(identity["model"], request.mode.words, [], {})
    begin(request.out, identity)
    return [_group(request, model, tasks, tell) for tasks in _groups(request, outcome, tell)], outcome


def _group(request: Request, model: Model, tasks: list[XtremeTask], tell: Callable[[str], None]) -> Trials | Retrieval:
    languages = {task.name: _languages(request, task) for task in tasks}
    for task in tasks:
        absent = [each for each in task.languages if each not in languages[task.name]]
        if absent:
            tell(f"note: {task.name}: no test file in {', '.join(absent)}")
    if tasks[0].train:
        return Trials(request, model, tasks, languages)
    (task,) = tasks
    return Retrieval(request, model, task, languages[task.name])


def _groups(request: Request, outcome: Outcome, tell: Callable[[str], None]) -> list[list[XtremeTask]]:
    """Tasks that have files, those with the same training data together; the others are said to be not done."""
    groups: dict[str, list[XtremeTask]] = {}
    for task in request.tasks:
        missing = _missing(request, task)
        if missing:
            outcome.not_done[task.name] = missing
            tell(f"not done: {missing}")
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


def footnotes(request: Request, outcome: Outcome) -> list[str]:
    """What differs between this row and the published ones."""
    notes = []
    if request.mode.words != "zero-shot":
        notes.append(f"{request.mode.words}; the published rows are zero-shot")
    if request.grid == "none":
        notes.append(
            f"settings of {SCRIPTS}; the published rows are each the best of a grid on English dev (--grid published)"
        )
    if request.grid == "xtune":
        notes.append(
            f"settings of {XTUNE}, the best epoch on English dev, where these look every 500 to 5,000 steps; the published "
            "rows are each the best of a grid"
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
