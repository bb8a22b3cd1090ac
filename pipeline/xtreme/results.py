"""What a run gives: scores by task, language and seed, their means, and the row.

Knows numbers and names; nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from pipeline.xtreme.catalog import ENGLISH, ROW, XtremeTask
from pipeline.xtreme.languages import by_kin, transfer_gap

Scores = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, and their standard deviation (n - 1); None: one seed, or nothing that is drawn."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def as_json(self) -> dict[str, float]:
        return {"mean": self.mean} | ({} if self.sd is None else {"sd": self.sd})

    def words(self, digits: int = 1) -> str:
        """For people."""
        return f"{self.mean:.{digits}f}" + ("" if self.sd is None else f" ± {self.sd:.{digits}f}")


@dataclass
class TaskResult:
    """One task of one model."""

    task: XtremeTask
    seeds: list[int]
    """Empty where nothing is drawn."""
    how: dict[str, Any]
    """Settings, their source, or the protocol: for the record."""
    runs: list[dict[str, Scores]]
    """For each seed, scores by language; languages whose labels are not known are not among them."""
    notes: list[str] = field(default_factory=list)
    """What differs from what is published."""

    @property
    def languages(self) -> list[str]:
        """Those that are scored."""
        return sorted(self.runs[0]) if self.runs else []

    def by_language(self, metric: str = "score") -> dict[str, Figure]:
        """Every language's figure."""
        return {each: Figure.of([run[each][metric] for run in self.runs]) for each in self.languages}

    def overall(self, metric: str = "score") -> Figure | None:
        """The mean over languages; None where none is scored."""
        if not self.languages:
            return None
        return Figure.of([mean(of_one[metric] for of_one in run.values()) for run in self.runs])

    @property
    def metrics(self) -> list[str]:
        """Names of all scores."""
        return list(self.runs[0][self.languages[0]]) if self.languages else []

    def means(self) -> dict[str, float]:
        """Every language's mean over seeds."""
        return {language: figure.mean for language, figure in self.by_language().items()}

    @property
    def gap(self) -> float | None:
        """See `transfer_gap`."""
        return transfer_gap(self.means())

    def as_json(self) -> dict[str, Any]:
        means = self.means()
        return {
            "name": self.task.name,
            "seeds": self.seeds,
            **self.how,
            "mean": {metric: figure.as_json() for metric in self.metrics if (figure := self.overall(metric))},
            "transfer_gap": self.gap,
            "families": by_kin(means, lambda kin: kin.family),
            "scripts": by_kin(means, lambda kin: kin.script),
            "languages": {
                language: {metric: self.by_language(metric)[language].as_json() for metric in self.metrics}
                for language in self.languages
            },
            "runs": self.runs,
            "notes": self.notes,
        }


@dataclass
class Outcome:
    """All tasks that were asked for."""

    model: str
    mode: str
    results: list[TaskResult]
    not_done: dict[str, str]
    """Tasks that could not be done, and why; a line each."""
    failed: bool = False
    """Whether a reason is a mistake, and not only a folder that is not there."""

    @property
    def average(self) -> Figure | None:
        """Over the tasks of the published row; None where one of them has no score, or the seeds are not the same ones."""
        row = [result for result in self.results if result.task.name in ROW and result.languages]
        if len(row) < len(ROW) or any(result.seeds != row[0].seeds for result in row):
            return None
        seeds = range(len(row[0].runs))
        of_task = [[mean(each["score"] for each in result.runs[at].values()) for result in row] for at in seeds]
        return Figure.of([mean(values) for values in of_task])

    def as_json(self) -> dict[str, Any]:
        average = self.average
        return {
            "model": self.model,
            "mode": self.mode,
            "average": None if average is None else average.as_json(),
            "tasks": [result.as_json() for result in self.results],
            "not_done": self.not_done,
        }


def notes_on_languages(task: XtremeTask, present: Sequence[str], scored: Sequence[str]) -> list[str]:
    """What of a task's languages is not in its mean."""
    notes = []
    if not scored:
        notes.append(f"{task.title}: no labels of the test sets, no score; predictions are written")
    elif len(scored) < len(task.languages):
        unlabelled = len(present) - len(scored)
        without = f", {unlabelled} more without labels" if unlabelled else ""
        notes.append(f"{task.title}: mean over {len(scored)} of {len(task.languages)} languages{without}")
    if scored and ENGLISH in task.languages and ENGLISH not in scored:
        notes.append(f"{task.title}: English has no score, so there is no transfer gap")
    return notes
