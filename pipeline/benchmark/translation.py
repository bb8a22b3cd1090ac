"""A step of translation against Hugging Face's `EncoderDecoderModel`: `python -m pipeline.benchmark.translation [--json FILE]`.

Both train the same model on the same batches under DeepSpeed, in turns, so that what else the machine does is shared between
them (`padded_translation` says how the other one is written). Table and JSON.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.table import Table

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table, put
from pipeline import command_line
from pipeline.benchmark.step import CONFIG, WARM_UP, Line, run
from pipeline.benchmark.worker import TRANSLATORS
from pipeline.quickstart import binarize
from pipeline.settings.schema import Config, load_config

PEER, OURS = TRANSLATORS
SETTINGS = (
    "objectives.mlm=null",
    "objectives.tlm=null",
    "objectives.dwa=null",
    "objectives.mt={weight: 1.0}",
    "model.decoder={layers: 6, embeddings: own}",
)
"""Of the benchmark's config, the objective and the model that both have."""
LARGEST_LOSS_DIFFERENCE = 1e-4
UNITS = {
    "tokens_per_second": "real tokens/s",
    "seconds_per_step": "s",
    "seconds_forward": "s",
    "seconds_backward": "s",
    "seconds_step": "s",
    "peak_memory_gb": "GB per rank",
}
Curves = dict[str, list[Line]]
"""A line per step, by contender."""


def check(config: Config) -> None:
    """Raises:
    ValueError: the two cannot train the same model.
    """
    decoder, on = config.model.decoder, list(config.objectives.active())
    if on != ["mt"]:
        raise ValueError(f"objectives: {', '.join(on)} are on, translation alone is compared; leave the others null")
    if decoder is None or decoder.embeddings == "tied" or decoder.layout == "interleaved" or config.model.freeze:
        raise ValueError(
            "model.decoder: EncoderDecoderModel is compared with a vanilla decoder that has embeddings of its own, both "
            "trained; give embeddings: own, layout: vanilla, freeze: null"
        )
    if config.model.dropout:
        raise ValueError(f"model.dropout = {config.model.dropout}: the two would draw differently; give 0")


def largest_difference(rounds: list[Curves]) -> float:
    """The largest relative difference of the losses at any step."""
    pairs = [two for curves in rounds for two in zip(curves[OURS], curves[PEER], strict=True)]
    return max(abs(ours["mt_loss"] / theirs["mt_loss"] - 1) for ours, theirs in pairs)


def of_run(lines: list[Line]) -> dict[str, float]:
    """Medians over the steps after the warm-up; of memory the most."""
    timed = lines[WARM_UP:]
    return {name: (max if name == "peak_memory_gb" else median)(line[name] for line in timed) for name in UNITS}


def figures(rounds: list[Curves]) -> list[dict[str, Any]]:
    """Entries of the JSON file: medians over the rounds, each ratio the median of those of one round's two runs."""
    runs = [{name: of_run(lines) for name, lines in curves.items()} for curves in rounds]
    entries = []
    for metric, unit in UNITS.items():
        for contender, other in ((PEER, OURS), (OURS, PEER)):
            ratios = [of[contender][metric] / of[other][metric] for of in runs]
            entries.append(
                {
                    "name": f"translation: {metric}",
                    "contender": contender,
                    "value": median(of[contender][metric] for of in runs),
                    "unit": unit,
                    "ratio_to": {other: round(median(ratios), 3)},
                    "ratios": [round(ratio, 3) for ratio in ratios],
                }
            )
    share = median(line["real_share"] for curves in rounds for line in curves[PEER])
    entries.append({"name": "share of places that are no padding", "contender": PEER, "value": share, "unit": ""})
    difference = largest_difference(rounds)
    entries.append({"name": "loss difference", "contender": OURS, "value": difference, "unit": ""})
    return entries


def show(entries: list[dict[str, Any]], title: str) -> None:
    of = {(entry["name"].removeprefix("translation: "), entry["contender"]): entry for entry in entries}
    table = Table(title=title)
    columns = ("contender", "tokens/s", "×", "s a step", "forward", "backward", "update", "peak GB a rank", "×")
    for column in columns:
        table.add_column(column, justify="left" if column == "contender" else "right")
    for contender in (PEER, OURS):
        value = {metric: of[metric, contender]["value"] for metric in UNITS}
        beside = {
            metric: 1.0 if contender == PEER else of[metric, OURS]["ratio_to"][PEER]
            for metric in ("tokens_per_second", "peak_memory_gb")
        }
        table.add_row(
            contender,
            f"{value['tokens_per_second']:,.0f}",
            f"{beside['tokens_per_second']:.2f}",
            *(f"{value[f'seconds_{part}']:.2f}" for part in ("per_step", "forward", "backward", "step")),
            f"{value['peak_memory_gb']:.2f}",
            f"{beside['peak_memory_gb']:.2f}",
        )
    print_table(table)


def benchmark(
    data: Annotated[
        Path | None, typer.Option(help="DATA_DIR with pairs; by default a small corpus is generated")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="training processes")] = 2,
    steps: Annotated[int, typer.Option(min=WARM_UP + 1, help="optimizer steps of each run")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="runs of each, in turns")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value", help="settings of the config")] = None,
) -> None:
    """Time our step of translation against Hugging Face's EncoderDecoderModel on padded batches.

    Example: python -m pipeline.benchmark.translation --data data --json figures.json batch.pairs=32
    """
    if json_file is not None:
        check_output(json_file)
    with tempfile.TemporaryDirectory(prefix="pipeline_benchmark_") as folder:
        out = Path(folder)
        settings = [*SETTINGS, f"data.path={data or out / 'data'}", *(overrides or [])]
        check(load_config(CONFIG, [f"run.out={out}", *settings]))  # a mistake is told before anything is started
        if data is None:
            binarize(out, seed=1)
        curves = []
        for number in range(rounds):
            turn = out / f"round_{number}"
            turn.mkdir()
            curves.append({name: run(name, CONFIG, ranks, steps, settings, turn) for name in (PEER, OURS)})
    entries = figures(curves)
    show(entries, f"{rounds} rounds of {steps} steps, {ranks} ranks")
    share, difference = (entry["value"] for entry in entries[-2:])
    put(f"places of the padded batches that are no padding: {share:.1%}")
    put(f"largest relative difference of the losses at any step: {difference:.1e}")
    if json_file is not None:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")
    if difference > LARGEST_LOSS_DIFFERENCE:
        raise ValueError(f"the losses differ by {difference:.1e} at some step: the two do not do the same work")


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
