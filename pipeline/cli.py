"""`python -m pipeline …`: what is done with a trained model. Each command is a thin layer over one module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

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
