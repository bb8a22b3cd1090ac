"""The head of a run's page: when, which model, which data, and what the figures were before and are after.

Knows a run's config and metrics; draws nothing.
"""

from __future__ import annotations

import datetime
import html
from collections.abc import Sequence
from pathlib import Path

from pipeline.objectives import catalog
from pipeline.run_folder import CONFIG, METRICS, RunMetrics
from pipeline.settings.schema import Config, load_config

MEASURES = {"aer": "alignment error rate", "retrieval": "sentence retrieval"}


def facts(run: Path, metrics: RunMetrics) -> list[tuple[str, str]]:
    """Where the run stands, and what it is made of; its config's part is left out where that cannot be read."""
    last, ends = max(metrics.train), metrics.kinds.get("end", {})
    ended = max(ends, default=-1)
    state = "not ended" if ended < last else "finished" if ends[ended].get("finished") else "stopped"
    try:
        of_config = _of_config(load_config(run / CONFIG)) if (run / CONFIG).is_file() else []
    except ValueError:
        of_config = []
    return [
        ("steps", f"{last:,}, {state}"),
        ("last written", _date(run / METRICS)),
        *of_config,
        ("checkpoints saved", f"{len(metrics.kinds.get('checkpoint', {})):,}"),
        ("times that the run went back to a checkpoint", str(metrics.times_gone_back)),
        ("damaged lines of metrics and alignments, left out", str(metrics.damaged_lines)),
    ]


def _of_config(config: Config) -> list[tuple[str, str]]:
    model, objectives = config.model, config.objectives
    sizes = f"{model.layers} layers × {model.hidden}, from scratch"
    weights = ", ".join(f"{name} × {term.weight:g}" for name, term in objectives.active().items())
    labelling = catalog.labelling(objectives)
    words = "" if labelling is None else f", words aligned at layer {labelling.layer}"
    words += ", given links" if catalog.reads_links(objectives) else ""
    batch = f"{config.batch.mono:,} blocks, {config.batch.pairs:,} pairs"
    if objectives.contrast is not None:
        batch += f", {config.batch.contrast:,} samples of sentence contrast"
    return [
        ("model", sizes if model.init is None else f"from {model.init}"),
        ("data", str(config.data.path)),
        ("objectives", weights + words),
        ("global batch, peak learning rate", f"{batch}, {config.optimizer.lr:g}"),
        ("DeepSpeed", config.deepspeed.stem),
    ]


def before_and_after(metrics: RunMetrics) -> str:
    """A table of the first and the last value of losses and of what was validated; nothing where nothing came twice."""
    rows = []
    for kind in ("train", "validation"):
        for key in metrics.keys(kind):
            measure, _, name = key.partition("/")
            steps, values = metrics.curve(kind, key)
            if len(steps) > 1 and (measure in MEASURES or measure.endswith("_loss")):
                what = MEASURES.get(measure, measure.replace("_", " "))
                words = f"{'training' if kind == 'train' else 'validation'}: {what} {name}".strip()
                rows.append((words, *map(_cell, (steps[0], values[0], steps[-1], values[-1]))))
    if not rows:
        return ""
    head = ("", "step", "before", "step", "after")
    return (
        f'<h2>Before and after</h2><table class="facts"><tr>{_cells(head, "th")}</tr>'
        + "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
        + "</table>"
    )


def _cells(row: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _date(file: Path) -> str:
    return datetime.datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
