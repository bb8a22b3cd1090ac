"""`python -m pipeline …`: what is done with a trained model. Each command is a thin layer over one module."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline import cli_show, cli_use

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command("export")
def export_command(checkpoint: Path, hf_dir: Path) -> None:
    """Write a run's latest checkpoint (or one of its checkpoints/step_*) as a Hugging Face folder.

    Example: python -m pipeline export runs/base hf/base
    """
    from pipeline.export import export

    written = export(checkpoint, hf_dir)
    note = "" if written["head"] else "; without a trained masked-LM head"
    print(f"{hf_dir}: step {written['step']}, {written['parameters'] / 1e6:.1f} M parameters{note}")


app.command("align")(cli_use.align_command)
app.command("evaluate")(cli_use.evaluate_command)
app.command("show")(cli_show.show_command)
app.command("demo")(cli_show.demo_command)


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


def main() -> None:
    """Run a command; a user's mistake ends it with one line and exit code 1."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
