"""`python -m pipeline …`: what is done with a trained model. Each command is a thin layer over one module."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline import command_line
from pipeline.commands.finetune import finetune_command
from pipeline.commands import align as cli_use
from pipeline.commands import show as cli_show

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command("export")
def export_command(checkpoint: Path, hf_dir: Path) -> None:
    """Write a run's latest checkpoint (or one of its checkpoints/step_*) as a Hugging Face folder.

    Example: python -m pipeline export runs/base hf/base
    """
    from pipeline.use.export import export

    written = export(checkpoint, hf_dir)
    note = "" if written["head"] else "; without a trained masked-LM head"
    print(f"{hf_dir}: step {written['step']}, {written['parameters'] / 1e6:.1f} M parameters{note}")


app.command("align")(cli_use.align_command)
app.command("evaluate")(cli_use.evaluate_command)
app.command("show")(cli_show.show_command)
app.command("demo")(cli_show.demo_command)
app.command("finetune")(finetune_command)


@app.command("quickstart")
def quickstart_command(
    out: Annotated[Path, typer.Option(help="folder for everything that is made")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(help="decides corpus, weights and order")] = 1,
    steps: Annotated[int | None, typer.Option(help="optimizer steps; by default as many as it takes to align")] = None,
) -> None:
    """The whole pipeline on a small generated corpus: text, token files, pretraining, export, word alignment.

    Example: ./launch.sh quickstart --out quickstart
    """
    from pipeline.quickstart import quickstart

    quickstart(out, seed, steps)


@app.command("dry-run")
def dry_run_command(
    config: Annotated[Path, typer.Argument(help="YAML config; see pipeline/configs/")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value", help="as in training")] = None,
    gpus: Annotated[int, typer.Option(help="ranks, one a GPU")] = 8,
    device: Annotated[str, typer.Option(help="h100, h100-pcie, h200, b200, a100, v100 or cpu")] = "h100",
    utilisation: Annotated[float, typer.Option(help="share of the peak that training will reach")] = 0.4,
    pair_tokens: Annotated[int, typer.Option(help="tokens of a mean pair, where data.path does not exist yet")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Print what a config would train: parameters, memory per GPU and ZeRO stage, operations, tokens, days.

    Example: python -m pipeline dry-run pipeline/configs/xlm_align_base.yaml --gpus 8 --device a100 data.path=data
    """
    from pipeline.config import load_config
    from pipeline.dry_run import dry_run, table

    result = dry_run(load_config(config, overrides or []), device, gpus, utilisation, pair_tokens)
    if as_json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        Console().print(table(result))


@app.command("report")
def report_command(
    run_dir: Annotated[Path, typer.Argument(help="folder of a run, running or ended")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the run's folder")] = None,
) -> None:
    """Write one self-contained HTML page with the curves of a run: losses, AER, throughput, time per phase, memory and more.

    Example: python -m pipeline report runs/base --out base.html
    """
    from pipeline.report import write_report

    path = run_dir / "report.html" if out is None else out
    metrics = write_report(run_dir, path)
    print(f"{path}: {len(metrics.train):,} lines of metrics up to step {max(metrics.train):,}")
    if metrics.damaged_lines:
        print(f"note: {metrics.damaged_lines} damaged lines were left out, as killed runs leave them", file=sys.stderr)


@app.command("plan")
def plan_command(
    config: Annotated[Path, typer.Argument(help="YAML config; see pipeline/configs/")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="settings that override it")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="hosts")] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="ranks on each host")] = 8,
    tflops: Annotated[
        float, typer.Option(min=1e-6, help="what a rank makes in training, not its data sheet's")
    ] = 150.0,
    link_gbit: Annotated[float, typer.Option(min=1e-6, help="what a host sends to others, Gbit/s")] = 200.0,
    gpu_link_gbit: Annotated[float, typer.Option(min=1e-6, help="what a GPU sends within its host, Gbit/s")] = 2400.0,
    overlap: Annotated[float, typer.Option(min=0, max=1, help="share of communication hidden by computation")] = 0.0,
    pair_tokens: Annotated[int, typer.Option(help="tokens of a mean pair, where data.path does not exist yet")] = 64,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the figures to this file")] = None,
) -> None:
    """Print what a run takes on so many hosts: memory, bytes between ranks, seconds a step, days.

    Example: python -m pipeline plan pipeline/configs/xlm_align_base.yaml --nodes 4 --gpus 8 --tflops 150
    """
    from dataclasses import asdict

    from pipeline.config import load_config
    from pipeline.plan_scale import Cluster, plan, table, work_of

    work = work_of(load_config(config, overrides or []), nodes * gpus, pair_tokens)
    cluster = Cluster(nodes, gpus, tflops * 1e12, link_gbit * 1e9 / 8, gpu_link_gbit * 1e9 / 8, overlap=overlap)
    planned = plan(work, cluster)
    Console().print(table(work, cluster, planned))
    if json_file is not None:
        content = {"work": asdict(work), "cluster": asdict(cluster), "plan": asdict(planned)}
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run a command; a user's mistake ends it with one line and exit code 1."""
    command_line.run(app)
