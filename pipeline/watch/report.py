"""One HTML page about a run, from the files in its folder: curves as inlined pictures, alignments, no network, no script.

Knows the files of a run's folder; nothing of how they came about. `docs/metrics.md` says what each figure is.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from data_prep.files import write_text
from pipeline.objectives import catalog
from pipeline.run_folder import CONFIG, PHASES, Curve, RunMetrics, read_training
from pipeline.watch.alignment_record import Views, read_alignments
from pipeline.watch.report_alignments import STYLE as ALIGNMENTS_STYLE
from pipeline.watch.report_alignments import evolution_html
from pipeline.watch.report_head import before_and_after, facts


def write_report(run: Path, out: Path) -> RunMetrics:
    """Write the page; returns what it was made of."""
    metrics = read_training(run)
    views, damaged_lines = read_alignments(run, metrics.kinds.get("validation", {}))
    metrics.damaged_lines += damaged_lines
    write_text(out, _page(run, metrics, views))
    return metrics


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


def _charts_of_objectives() -> list[Chart]:
    """Those of what objectives report beside their losses: figures of one title share a chart."""
    ends: dict[tuple[str, str], list[str]] = {}
    for end, figure in catalog.figures():
        ends.setdefault((figure.title, figure.unit), []).append(end)
    return [Chart(title, "train", _ending(*found), unit) for (title, unit), found in ends.items()]


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
    *_charts_of_objectives(),
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


def _charts(metrics: RunMetrics) -> list[tuple[Chart, dict[str, Curve]]]:
    """Every chart that has something to show, with its curves; figures that no chart fits get one of their own."""
    shown = {("train", "seconds_per_step")}
    rest = [
        Chart(_in_words(key), kind, _named(key))
        for kind in ("train", "validation")
        for key in metrics.keys(kind)
        if not any(chart.kind == kind and chart.fits(key) for chart in CHARTS) and (kind, key) not in shown
    ]
    found = []
    for chart in (*CHARTS, *rest):
        if chart.by_layer:
            curves = metrics.curves_by_layer(chart.kind, chart.fits)
        else:
            curves = {key: metrics.curve(chart.kind, key) for key in metrics.keys(chart.kind) if chart.fits(key)}
        if curves:
            found.append((chart, curves))
    return found


def _is_constant(chart: Chart, curves: Mapping[str, Curve]) -> bool:
    """Whether all curves are flat: that takes a line of text, not a picture."""
    flat = all(len(values) > 1 and len(set(values)) == 1 for _, values in curves.values())
    return flat and not (chart.by_layer or chart.stacked)


def _in_words(key: str) -> str:
    words = key.replace("_", " ")
    return words[:1].upper() + words[1:]


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
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set_ylabel(chart.unit)
    if chart.unit == "layer":
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
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
    return name if measure.startswith(("aer", "retrieval")) else key.removeprefix("seconds_").replace("_", " ")


_STYLE = (
    "body{font-family:sans-serif;margin:2em auto;max-width:88em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}"
    ".facts td{padding:.15em .8em;border-bottom:1px solid #ddd}.facts td+td,.facts th+th{text-align:right;"
    "font-variant-numeric:tabular-nums}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(34em,1fr));gap:1em}figure{margin:0}"
    "img{width:100%}figcaption{font-weight:bold}pre{background:#f6f6f6;padding:1em;overflow:auto}"
)


def _page(run: Path, metrics: RunMetrics, views: Views) -> str:
    charts = _charts(metrics)
    figures = "".join(
        f'<figure><figcaption>{html.escape(chart.title)}</figcaption><img alt="{html.escape(chart.title)}" '
        f'src="data:image/svg+xml;base64,{_draw(chart, curves)}"></figure>'
        for chart, curves in charts
        if not _is_constant(chart, curves)
    )
    constant = [
        (f"{chart.title}: {_label(key)}" if len(curves) > 1 else chart.title, _shown(values))
        for chart, curves in charts
        if _is_constant(chart, curves)
        for key, (_, values) in curves.items()
    ]
    unchanged = f"<h2>Did not change</h2>{_table(constant)}" if constant else ""
    config = run / CONFIG
    settings = config.read_text(encoding="utf-8") if config.is_file() else f"{CONFIG} is not in the run's folder"
    title = html.escape(f"Run {run.resolve().name}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}{ALIGNMENTS_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f"{_table(facts(run, metrics))}\n"
        f"<details><summary>Config</summary><pre>{html.escape(settings)}</pre></details>\n"
        f"{before_and_after(metrics)}\n{evolution_html(views)}\n"
        f'<h2>Curves</h2>\n<div class="charts">{figures}</div>\n{unchanged}\n'
        f"<details><summary>Last values</summary>{_table(_last_values(metrics))}</details></body></html>\n"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{cells}</table>'


def _last_values(metrics: RunMetrics) -> list[tuple[str, str]]:
    return [
        (f"{title}: {key}", _shown(metrics.curve(kind, key)[1]))
        for kind, title in (("train", "last"), ("validation", "last validation"))
        for key in metrics.keys(kind)
    ]


def _shown(values: Sequence[float]) -> str:
    return f"{values[-1]:,.4g}" if abs(values[-1]) < 1000 else f"{values[-1]:,.0f}"
