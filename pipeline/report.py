"""One HTML page about a run, from the files in its folder: curves as inlined pictures, alignments, no network, no script.

Knows the files of a run's folder; nothing of how they came about. `docs/metrics.md` says what each figure is.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from pipeline.alignment_record import Views, read_alignments
from pipeline.report_alignments import STYLE as ALIGNMENTS_STYLE
from pipeline.report_alignments import evolution_html

METRICS, CONFIG = "metrics.jsonl", "config.yaml"
PHASES = ("input", "label", "forward", "backward", "step")
Curve = tuple[list[int], list[float]]


@dataclass
class RunMetrics:
    """A run's lines by kind and step: where a run went back to a checkpoint, what it did again counts as it was last."""

    kinds: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
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
    """Read a run's metrics; ValueError where there are none yet."""
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
        metrics.kinds.setdefault(kind, {})[step] = content
    if not metrics.train:
        raise ValueError(
            f"{path}: holds no training metrics ({len(lines)} lines); wait for the first run.log_every steps"
        )
    return metrics


def write_report(run: Path, out: Path) -> RunMetrics:
    """Write the page; returns what it was made of."""
    metrics = read_metrics(run)
    views, damaged_lines = read_alignments(run, metrics.kinds.get("validation", {}))
    metrics.damaged_lines += damaged_lines
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_page(run, metrics, views), encoding="utf-8")
    return metrics


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Chart:
    """A picture of all figures of a kind whose key fits."""

    title: str
    kind: str
    fits: Callable[[str], bool]
    unit: str = ""
    logarithmic: bool = False
    stacked: bool = False
    by_layer: bool = False
    """The figures are lists with a value for every layer; the mean of those that fit is drawn."""


def _named(*names: str) -> Callable[[str], bool]:
    return lambda key: key in names


def _ending(*ends: str) -> Callable[[str], bool]:
    return lambda key: key.endswith(ends)


def _starting(start: str) -> Callable[[str], bool]:
    return lambda key: key.startswith(start)


CHARTS = (
    Chart("Training loss", "train", _ending("_loss"), "nats per predicted token"),
    Chart("Validation loss per language", "validation", lambda key: "_loss/" in key, "nats per predicted token"),
    Chart("Alignment error rate", "validation", _starting("aer/"), "AER"),
    Chart("Alignment error rate of the best layer", "validation", _starting("aer_best/"), "AER"),
    Chart("Layer with the lowest alignment error rate", "validation", _starting("aer_best_layer/"), "layer"),
    Chart("Alignment error rate by layer, mean", "validation", _starting("aer_by_layer/"), "AER", by_layer=True),
    Chart("Sentence retrieval", "validation", _starting("retrieval/"), "accuracy"),
    Chart("Sentence retrieval of the best layer", "validation", _starting("retrieval_best/"), "accuracy"),
    Chart("Layer with the best sentence retrieval", "validation", _starting("retrieval_best_layer/"), "layer"),
    Chart(
        "Sentence retrieval by layer, mean", "validation", _starting("retrieval_by_layer/"), "accuracy", by_layer=True
    ),
    Chart("Links per pair", "train", _ending("_links_per_pair"), "links"),
    Chart("Self-labelling agreement, masked-LM accuracy", "train", _ending("_agreement", "_accuracy"), "share"),
    Chart("Throughput", "train", _named("tokens_per_second"), "tokens/s, without padding"),
    Chart("Arithmetic per device", "train", _named("tflops_per_device"), "TFLOP/s"),
    Chart("Utilisation", "train", _named("utilisation"), "share of the peak"),
    Chart("Time per phase", "train", _named(*(f"seconds_{phase}" for phase in PHASES)), "s per step", stacked=True),
    Chart("Learning rate", "train", _named("lr")),
    Chart("Loss scale", "train", _named("loss_scale"), logarithmic=True),
    Chart("Skipped steps", "train", _named("skipped_steps"), "steps so far"),
    Chart("Gradient norm before clipping", "train", _named("gradient_norm"), logarithmic=True),
    Chart("Peak memory", "train", _named("peak_memory_gb"), "GB, the fullest rank"),
)


def _pictures(metrics: RunMetrics) -> list[tuple[str, str]]:
    """Title and SVG (base64) of every chart that has something to show; figures that no chart fits get one of their own."""
    pictures, shown = [], {("train", "seconds_per_step")}
    rest = [
        Chart(key, kind, _named(key))
        for kind in ("train", "validation")
        for key in metrics.keys(kind)
        if not any(chart.kind == kind and chart.fits(key) for chart in CHARTS) and (kind, key) not in shown
    ]
    for chart in (*CHARTS, *rest):
        if chart.by_layer:
            curves = metrics.curves_by_layer(chart.kind, chart.fits)
        else:
            curves = {key: metrics.curve(chart.kind, key) for key in metrics.keys(chart.kind) if chart.fits(key)}
        if curves:
            pictures.append((chart.title, _draw(chart, curves)))
    return pictures


def _draw(chart: Chart, curves: Mapping[str, Curve]) -> str:
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    if chart.by_layer:
        axis.set_prop_cycle(color=plt.colormaps["viridis"](np.linspace(0, 0.95, len(curves))))
    labels = [_label(key) for key in curves]
    if chart.stacked:
        steps = next(iter(curves.values()))[0]
        by_step = [dict(zip(*curve, strict=True)) for curve in curves.values()]
        axis.stackplot(steps, [[values.get(step, 0.0) for step in steps] for values in by_step], labels=labels)
    else:
        for label, (steps, values) in zip(labels, curves.values(), strict=True):
            axis.plot(steps, values, marker="." if len(steps) < 40 else None, lw=1.2, label=label)
    positive = any(value > 0 and math.isfinite(value) for _, values in curves.values() for value in values)
    if chart.logarithmic and positive:
        axis.set_yscale("log")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(chart.unit)
    if chart.unit == "layer":
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(visible=True, color="#dddddd", lw=0.5)
    if chart.by_layer:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    elif len(curves) > 1 or chart.kind == "validation":
        axis.legend(fontsize=7, ncols=1 + len(curves) // 12)
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return base64.b64encode(picture.getvalue()).decode("ascii")


def _label(key: str) -> str:
    measure, _, name = key.partition("/")
    return name if measure.startswith(("aer", "retrieval")) else key.removeprefix("seconds_")


_STYLE = (
    "body{font-family:sans-serif;margin:2em auto;max-width:88em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}"
    ".facts td{padding:.15em .8em;border-bottom:1px solid #ddd}.facts td+td{text-align:right;"
    "font-variant-numeric:tabular-nums}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(34em,1fr));gap:1em}figure{margin:0}"
    "img{width:100%}figcaption{font-weight:bold}pre{background:#f6f6f6;padding:1em;overflow:auto}"
)


def _page(run: Path, metrics: RunMetrics, views: Views) -> str:
    figures = "".join(
        f'<figure><figcaption>{html.escape(title)}</figcaption><img alt="{html.escape(title)}" '
        f'src="data:image/svg+xml;base64,{svg}"></figure>'
        for title, svg in _pictures(metrics)
    )
    config = run / CONFIG
    settings = config.read_text(encoding="utf-8") if config.is_file() else f"{CONFIG} is not in the run's folder"
    title = html.escape(f"Run {run.resolve().name}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}{ALIGNMENTS_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f"{_table(_state(metrics))}\n{evolution_html(views)}\n"
        f'<h2>Curves</h2>\n<div class="charts">{figures}</div>\n'
        f"<details><summary>Last values</summary>{_table(_last_values(metrics))}</details>\n"
        f"<details><summary>Config</summary><pre>{html.escape(settings)}</pre></details></body></html>\n"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{cells}</table>'


def _state(metrics: RunMetrics) -> list[tuple[str, str]]:
    """Where the run stands."""
    last, ends = max(metrics.train), metrics.kinds.get("end", {})
    ended = max(ends, default=-1)
    state = "not ended" if ended < last else "finished" if ends[ended].get("finished") else "stopped"
    return [
        ("steps", f"{last:,}, {state}"),
        ("checkpoints saved", f"{len(metrics.kinds.get('checkpoint', {})):,}"),
        ("times that the run went back to a checkpoint", str(metrics.times_gone_back)),
        ("damaged lines of metrics and alignments, left out", str(metrics.damaged_lines)),
    ]


def _last_values(metrics: RunMetrics) -> list[tuple[str, str]]:
    return [
        (f"{title}: {key}", _shown(metrics.curve(kind, key)[1]))
        for kind, title in (("train", "last"), ("validation", "last validation"))
        for key in metrics.keys(kind)
    ]


def _shown(values: Sequence[float]) -> str:
    return f"{values[-1]:,.4g}" if abs(values[-1]) < 1000 else f"{values[-1]:,.0f}"
