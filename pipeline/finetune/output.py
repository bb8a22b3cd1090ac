"""What comes out: predictions in XTREME's layout, a table, and `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from data_prep.files import write_text
from pipeline.finetune.tasks.task import Scores

ByLanguage = Mapping[str, Scores]
MEAN = "mean"
"""The row of the table over all test languages that were not trained on."""
PREDICTIONS = "predictions"


def write_predictions(out: Path, name: str, language: str, suffix: str, text: str) -> Path:
    """Write `out`/predictions/`name`/test-`language`.`suffix`."""
    path = out / PREDICTIONS / name / f"test-{language}.{suffix}"
    write_text(path, text)
    return path


def with_mean(scores: ByLanguage, trained: Sequence[str]) -> dict[str, Scores]:
    """Scores by language and, as `MEAN`, their mean over the languages that were not trained on, if there are any."""
    others = [of_one for language, of_one in scores.items() if language not in trained]
    shared = [metric for metric in others[0] if all(metric in of_one for of_one in others)] if others else []
    means = {MEAN: {metric: mean(of_one[metric] for of_one in others) for metric in shared}} if others else {}
    return {**scores, **means}


def summarise(runs: Sequence[ByLanguage]) -> dict[str, dict[str, dict[str, float]]]:
    """Row → metric → mean and, over several seeds, standard deviation (n − 1)."""
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for row, metrics in (runs[0] if runs else {}).items():
        for metric in metrics:
            values = [run[row][metric] for run in runs]
            entry = {"mean": mean(values)} | ({"sd": stdev(values)} if len(values) > 1 else {})
            summary.setdefault(row, {})[metric] = entry
    return summary


def table(summary: Mapping[str, Mapping[str, Mapping[str, float]]], trained: Sequence[str], title: str) -> Table:
    """A row a language, a column a metric."""
    metrics = list(dict.fromkeys(metric for values in summary.values() for metric in values))
    grid = Table(title=title, title_justify="left")
    grid.add_column("language")
    for metric in metrics:
        grid.add_column(metric, justify="right")
    for row, values in summary.items():
        label = f"mean without {', '.join(trained)}" if row == MEAN else row
        grid.add_row(
            f"{label} (trained on)" if row in trained else label,
            *(_cell(values[metric]) if metric in values else "" for metric in metrics),
            end_section=row != MEAN and row == [name for name in summary if name != MEAN][-1],
        )
    return grid


def _cell(value: Mapping[str, Any]) -> str:
    return f"{value['mean']:.2f}" + (f" ± {value['sd']:.2f}" if "sd" in value else "")
