"""Our training step against a straightforward one: `python -m pipeline.benchmark [--data DATA_DIR] [--json FILE]`.

Both train the same model on the same batches under DeepSpeed (`straightforward` says how the other one is written), first
for the loss curves, then for a few steps with our measures added one by one. Table, JSON and picture.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import matplotlib
import typer
from rich.table import Table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table, put
from pipeline import command_line, shipped
from pipeline.benchmark.worker import CONTENDERS, EVERY
from pipeline.host.process import ranks_command, told_to_end_with_us
from pipeline.quickstart import binarize
from pipeline.run_folder import read_metrics
from pipeline.settings.schema import load_config
from pipeline.show.picture import save_picture

BASELINE, *_, OURS = CONTENDERS
CONFIG = shipped.CONFIGS / "benchmark.yaml"
WORKER = shipped.PACKAGE / "benchmark" / "worker.py"
WARM_UP = 2  # steps left out of the timings: first allocations
LARGEST_LOSS_DIFFERENCE = 0.01
LAST_LINES = 30  # of a contender that fails: its folder is gone by then

Line = dict[str, float]


def run(contender: str, config: Path, ranks: int, steps: int, overrides: list[str], out: Path) -> list[Line]:
    """Train a contender for `steps` steps; its metrics, a line per step."""
    folder = out / f"{list(EVERY).index(contender)}_{steps}"
    script = [str(WORKER), "--contender", contender, "--config", str(config)]
    settings = [f"run.steps={steps}", f"run.out={folder}", *overrides]
    command = [*ranks_command(ranks), *script, *settings]
    log = out / f"{folder.name}.log"
    threads = str(max(1, len(os.sched_getaffinity(0)) // ranks))
    with log.open("wb") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        with process, told_to_end_with_us([process]):
            code = process.wait()
    if code:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        raise ValueError(f"{contender}: ended with exit code {code}; the end of its output:\n{last}")
    return [{"step": step, **values} for step, values in sorted(read_metrics(folder).train.items())]


def total_loss(line: Line) -> float:
    return line["mlm_loss"] + line["tlm_loss"] + line["dwa_loss"]


def largest_difference(curve: list[Line], other: list[Line]) -> float:
    """The largest relative difference of the summed losses at any step."""
    return max(abs(total_loss(a) / total_loss(b) - 1) for a, b in zip(curve, other, strict=True))


def summary(lines: list[Line]) -> dict[str, float]:
    """Medians over the steps after the warm-up, and the most memory of any rank."""
    timed = lines[WARM_UP:]
    of = {name: median(line[name] for line in timed) for name in ("tokens_per_second", "seconds_per_step")}
    label = median(line["seconds_label"] / line["seconds_per_step"] for line in timed)
    return {**of, "label_share": label, "peak_memory_gb": max(line["peak_memory_gb"] for line in timed)}


def figures(results: dict[str, dict[str, float]], name: str) -> list[dict[str, Any]]:
    """Entries of the JSON file: speed and memory of every contender, with ratios to the others."""
    entries = []
    for metric, unit in (
        ("tokens_per_second", "real tokens/s"),
        ("peak_memory_gb", "GB per rank"),
        ("label_share", ""),
    ):
        for contender, values in results.items():
            value = values[metric]
            ratios = {
                other: round(value / theirs[metric], 3) for other, theirs in results.items() if other != contender
            }
            entries.append(
                {"name": f"{name}: {metric}", "contender": contender, "value": value, "unit": unit, "ratio_to": ratios}
            )
    return entries


def show(results: dict[str, dict[str, float]], title: str) -> None:
    table = Table(title=title)
    for column in ("contender", "tokens/s", "×", "s a step", "labelling", "peak GB a rank", "×"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    first = results[BASELINE]
    for contender, values in results.items():
        table.add_row(
            contender,
            f"{values['tokens_per_second']:,.0f}",
            f"{values['tokens_per_second'] / first['tokens_per_second']:.2f}",
            f"{values['seconds_per_step']:.2f}",
            f"{values['label_share']:.1%}",
            f"{values['peak_memory_gb']:.2f}",
            f"{values['peak_memory_gb'] / first['peak_memory_gb']:.2f}",
        )
    print_table(table)


def draw(curves: dict[str, list[Line]], results: dict[str, dict[str, float]], path: Path) -> None:
    """Loss curves over each other, and the speed of every contender."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.5))
    for (contender, lines), style in zip(curves.items(), ("-", "--"), strict=True):
        left.plot([line["step"] for line in lines], [total_loss(line) for line in lines], style, label=contender)
    left.set(xlabel="optimizer step", ylabel="MLM + TLM + DWA loss")
    left.legend()
    right.barh(list(results), [values["tokens_per_second"] for values in results.values()], color="#4c78a8")
    right.invert_yaxis()
    right.set(xlabel="real tokens/s")
    figure.tight_layout()
    save_picture(figure, path)


def benchmark(
    data: Annotated[Path | None, typer.Option(help="DATA_DIR; by default a small corpus is generated")] = None,
    config: Annotated[Path, typer.Option(help="config with all three objectives")] = CONFIG,
    ranks: Annotated[int, typer.Option(help="training processes")] = 2,
    steps: Annotated[int, typer.Option(min=WARM_UP + 1, help="optimizer steps of the loss curves")] = 50,
    ablation_steps: Annotated[int, typer.Option(help="optimizer steps per ablation; 0: none")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there")] = None,
    picture: Annotated[Path | None, typer.Option(help="draw the loss curves and speeds there, a PNG")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value", help="settings of the config")] = None,
) -> None:
    """Time our training step against a straightforward one.

    Example: python -m pipeline.benchmark --data data --json figures.json --picture figures.png
    """
    if json_file is not None:
        check_output(json_file)
    with tempfile.TemporaryDirectory(prefix="pipeline_benchmark_") as folder:
        out = Path(folder)
        if data is None:
            binarize(out, seed=1)
        settings = [f"data.path={data or out / 'data'}", *(overrides or [])]
        load_config(config, [f"run.out={out}", *settings])  # a mistake is told before anything is started
        curves = {name: run(name, config, ranks, steps, settings, out) for name in (BASELINE, OURS)}
        results = {name: summary(lines) for name, lines in curves.items()}
        show(results, f"{steps} steps, {ranks} ranks")
        entries = figures(results, "curves")
        difference = largest_difference(curves[OURS], curves[BASELINE])
        put(f"largest difference of the loss at any step: {difference:.2%}")
        entries.append({"name": "loss difference", "contender": OURS, "value": difference, "unit": "", "ratio_to": {}})
        if ablation_steps:
            results = {name: summary(run(name, config, ranks, ablation_steps, settings, out)) for name in CONTENDERS}
            show(results, f"measures added one by one, {ablation_steps} steps each")
            entries += figures(results, "ablation")
        if json_file:
            write_text(json_file, json.dumps(entries, indent=1) + "\n")
        if picture:
            draw(curves, results, picture)
    if difference > LARGEST_LOSS_DIFFERENCE:
        raise ValueError(f"the losses differ by {difference:.2%} at some step: the contenders do not do the same work")


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
