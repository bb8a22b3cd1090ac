"""A run's folder (run.out): the names of its files, and the one reader of its metrics.

Standard library only: it answers batch scripts and pages as it does tables. What the figures mean is in docs/metrics.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
ALIGNMENTS = "alignments.jsonl"
LOCK = "lock"
PHASES = ("input", "label", "forward", "backward", "step")
"""Of an optimizer step, in their order; `seconds_<phase>` in the metrics."""

Curve = tuple[list[int], list[float]]


@dataclass
class RunMetrics:
    """A run's lines by kind and step: where a run went back to a checkpoint, what it did again counts as it was last."""

    kinds: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    ends: list[dict[str, Any]] = field(default_factory=list)
    """The `end` lines in their order, with their `step`: one for each time that the ranks ended by themselves."""
    damaged_lines: int = 0  # of a run that was killed while it wrote
    times_gone_back: int = 0

    @property
    def train(self) -> dict[int, dict[str, Any]]:
        return self.kinds.get("train", {})

    def go_back_before(self, step: int) -> None:
        """Forget what was recorded of this step and later ones: the run does them again."""
        self.times_gone_back += 1
        for kind, lines in self.kinds.items():
            self.kinds[kind] = {done: values for done, values in lines.items() if done < step}

    def curve(self, kind: str, key: str) -> Curve:
        """Steps and values of one figure, where it is a number."""
        lines = self.kinds.get(kind, {})
        found = [(step, lines[step][key]) for step in sorted(lines) if _is_number(lines[step].get(key))]
        return [step for step, _ in found], [value for _, value in found]

    def curves_by_layer(self, kind: str, fits: Callable[[str], bool]) -> dict[str, Curve]:
        """A curve for each layer: the mean of the figures that fit and have a value for every layer."""
        curves: dict[str, Curve] = {}
        for step, line in sorted(self.kinds.get(kind, {}).items()):
            figures = [values for key, values in line.items() if fits(key) and isinstance(values, list)]
            for layer, values in enumerate(zip(*figures, strict=True)):
                steps, means = curves.setdefault(f"layer {layer}", ([], []))
                steps.append(step)
                means.append(mean(values))
        return curves

    def keys(self, kind: str) -> list[str]:
        """All figures of a kind, in the order of their first appearance."""
        lines = self.kinds.get(kind, {}).values()
        return list(dict.fromkeys(key for line in lines for key, value in line.items() if _is_number(value)))


def read_metrics(run: Path) -> RunMetrics:
    """Read what a run's folder has of metrics; a line that cannot be read is counted and left out.

    Raises:
        ValueError: there is no such file.
    """
    path = run / METRICS
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give the folder of a run, its run.out") from None
    metrics, last = RunMetrics(), -1
    for line in lines:
        try:
            content = json.loads(line)
            kind, step = str(content.pop("kind")), int(content.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            metrics.damaged_lines += 1
            continue
        if kind == "train":
            if step <= last:
                metrics.go_back_before(step)
            last = step
        elif kind == "end":
            metrics.ends.append({**content, "step": step})
        metrics.kinds.setdefault(kind, {})[step] = content
    return metrics


def read_training(run: Path) -> RunMetrics:
    """The same of a run that has trained; ValueError where it has not logged any step yet."""
    metrics = read_metrics(run)
    if not metrics.train:
        raise ValueError(f"{run / METRICS}: holds no training metrics; wait for the first run.log_every steps")
    return metrics


def cost(run: Path) -> tuple[float, float]:
    """(operations in 10^12 on a device, seconds) of a run's steps; steps that were done again count once, as last done."""
    teraflops, seconds, before = 0.0, 0.0, 0
    for step, values in sorted(read_metrics(run).train.items()):
        spent = values["seconds_per_step"] * (step - before)
        teraflops, seconds, before = teraflops + spent * values["tflops_per_device"], seconds + spent, step
    return teraflops, seconds


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
