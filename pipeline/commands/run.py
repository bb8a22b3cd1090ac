"""The commands on whole runs: `export`, `report` and `quickstart`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.files import check_output
from data_prep.standard_output import put


def export_command(checkpoint: Path, hf_dir: Path) -> None:
    """Write a run's latest checkpoint (or one of its checkpoints/step_*) as a Hugging Face folder.

    Example: python -m pipeline export runs/base hf/base
    """
    from pipeline.use.export import export

    written = export(checkpoint, hf_dir)
    note = "" if written["head"] else "; without a trained masked-LM head"
    put(f"{hf_dir}: step {written['step']}, {written['parameters'] / 1e6:.1f} M parameters{note}")


def report_command(
    run_dir: Annotated[Path, typer.Argument(help="folder of a run, running or ended")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the run's folder")] = None,
) -> None:
    """Write one self-contained HTML page with the curves of a run: losses, AER, throughput, time per phase, memory and more.

    Example: python -m pipeline report runs/base --out base.html
    """
    from pipeline.report import write_report

    path = run_dir / "report.html" if out is None else out
    check_output(path)
    metrics = write_report(run_dir, path)
    put(f"{path}: {len(metrics.train):,} lines of metrics up to step {max(metrics.train):,}")
    if metrics.damaged_lines:
        print(f"note: {metrics.damaged_lines} damaged lines were left out, as killed runs leave them", file=sys.stderr)


def quickstart_command(
    out: Annotated[Path, typer.Option(help="folder for everything that is made")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="decides corpus, weights and order")] = 1,
    steps: Annotated[int | None, typer.Option(help="optimizer steps; by default as many as it takes to align")] = None,
) -> None:
    """The whole pipeline on a small generated corpus: text, token files, pretraining, export, word alignment.

    Example: ./launch.sh quickstart --out quickstart
    """
    from pipeline.quickstart import quickstart

    quickstart(out, seed, steps)
