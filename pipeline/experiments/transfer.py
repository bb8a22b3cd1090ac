"""What a model is worth for a task: it is fine-tuned for it, and scored in every test language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.experiments.plan import FineTuning
from pipeline.finetune.files.inputs import TaskFile, parse_tests
from pipeline.finetune.predict import TASKS
from pipeline.finetune.run import Files, run
from pipeline.finetune.tasks.task import Scores, Settings
from pipeline.weights.export import export


class Tasks:
    """The tasks of an experiment, whose files and settings were checked."""

    def __init__(self, tasks: Mapping[str, FineTuning]) -> None:
        self._of = {name: (task, _files(task), _settings(name, task)) for name, task in tasks.items()}

        self.content: dict[str, Any] = {
            name: (settings, [source.path.read_bytes() for source in (*files.train, files.dev, *files.test) if source])
            for name, (_, files, settings) in self._of.items()
        }
        """All that decides about scores: files' bytes and settings."""

    def check(self, longest: int, arm: str) -> None:
        """ValueError where a task's items are longer than `longest` tokens, which is all that an arm's model takes."""
        for name, (_, _, settings) in self._of.items():
            if settings.max_length > longest:
                raise ValueError(
                    f"finetuned.{name}.settings.max_length = {settings.max_length}: the model of {arm} takes {longest} tokens "
                    "at most; give that or less"
                )

    def measure(self, folder: Path, seed: int, writes: bool) -> dict[str, dict[str, Scores]]:
        """Scores by task and language, with their mean over those that were not trained on; `seed` decides head and order.

        folder: what `open_weights` takes; writes: whether it has a decoder. Tasks that want one are left out without.
        """
        found = {}
        for name, (task, files, settings) in self._of.items():
            kind = TASKS[task.task]()
            if task.task == "generate" and not writes:
                continue
            with TemporaryDirectory() as place:
                model = folder
                if task.task == "generate":
                    model = Path(place) / "model"
                    export(folder, model)
                done = run(kind, model, files, settings, [seed], Path(place) / "out", name, keep_model=False)
            found[name] = done.runs[0]
        return found


def _files(task: FineTuning) -> Files:
    dev = None if task.dev is None else TaskFile.parse(task.dev)
    return Files([TaskFile.parse(text) for text in task.train], dev, parse_tests(task.test))


def _settings(name: str, task: FineTuning) -> Settings:
    defaults = TASKS[task.task].defaults
    known = {field.name for field in fields(defaults)}
    for setting in task.settings:
        if setting not in known:
            raise ValueError(f"finetuned.{name}.settings.{setting}: is none of {', '.join(sorted(known))}")
    return replace(defaults, **task.settings)
