"""The commands on whole runs: `export`, `report` and `quickstart`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.files import check_output
from data_prep.standard_output import put
from data_prep.tokenizers.hub import place_of


def export_command(
    model: Annotated[
        Path,
        typer.Argument(
            parser=place_of,
            help="a run's folder, for its latest checkpoint, or a checkpoints/step_*; also fairseq's model.pt, a Hugging Face "
            "folder, or a model of the hub by its name",
        ),
    ],
    hf_dir: Annotated[Path, typer.Argument(help="Hugging Face folder to write; a new or an empty one")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="folder with the model's tokenizer, where none lies beside it")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the export that HF_DIR holds")] = False,
    encoder: Annotated[bool, typer.Option("--encoder", help="of a model with a decoder the encoder alone")] = False,
    to_hub: Annotated[
        str | None,
        typer.Option("--push", metavar="NAME", help="upload the folder to the hub as this model too, ORG/NAME"),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="with --push: a new model is seen by its owners alone")
    ] = False,
) -> None:
    """Write a run's latest checkpoint (or another model, see MODEL) as a Hugging Face folder, with a model card.

    Example: python -m pipeline export runs/base hf/base
    """
    from pipeline.weights.publish import check_target, push

    if private and to_hub is None:
        raise ValueError("--private: is of --push; give the model's name on the hub by --push ORG/NAME")
    if to_hub is not None:
        check_target(to_hub, private)
    from pipeline.weights.export import WRITTEN, export

    written = export(model, hf_dir, tokenizer, force, to_hub, encoder)
    known = written.known
    for note in written.notes:
        print(f"note: {note}", file=sys.stderr)
    head = "" if known.head else "; without a trained masked-LM head"
    origin = known.origin if known.info is None else f"step {known.info.step}"
    put(f"{hf_dir}: {origin}, {known.parameters / 1e6:.1f} M parameters{head}")
    options = known.record.options if known.decoder is None else None
    if options is not None:
        print(f"words align at {options.describe()} ({options.why}); recorded in {hf_dir}/config.json", file=sys.stderr)
    if to_hub is not None:
        put(f"{to_hub}: {push(hf_dir, WRITTEN, to_hub, private)}")
    uses = (
        "align {} SOURCE TARGET > links.pharaoh"
        if known.decoder is None
        else "generate {} TEXT --to LANGUAGE > written"
    )
    print(f"next: python -m pipeline {uses.format(to_hub or hf_dir)}", file=sys.stderr)


def report_command(
    run_dir: Annotated[Path, typer.Argument(help="folder of a run, running or ended")],
    out: Annotated[Path | None, typer.Option(help="HTML file; default: report.html in the run's folder")] = None,
) -> None:
    """Write one self-contained HTML page with the curves of a run: losses, AER, throughput, time per phase, memory and more.

    Example: python -m pipeline report runs/base --out base.html
    """
    from pipeline.watch.report import write_report

    path = run_dir / "report.html" if out is None else out
    check_output(path, [file for file in run_dir.glob("*") if file.suffix != ".html"])
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
