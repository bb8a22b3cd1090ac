"""`python -m pipeline …`: what is done with a trained model. Each command is a thin layer over one module."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from sinkhorn_align import AlignmentSettings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Cost = Annotated[str, typer.Option(help="clip: as released; exp: as published")]
TokenizerDir = Annotated[Path | None, typer.Option(help="TOKENIZER_DIR, where HF_DIR holds no SentencePiece model")]


@app.command("export")
def export_command(checkpoint: Path, hf_dir: Path) -> None:
    """Write a run's latest checkpoint (or one of its checkpoints/step_*) as a Hugging Face folder.

    Example: python -m pipeline export runs/base hf/base
    """
    from pipeline.export import export

    written = export(checkpoint, hf_dir)
    note = "" if written["head"] else "; without a trained masked-LM head"
    print(f"{hf_dir}: step {written['step']}, {written['parameters'] / 1e6:.1f} M parameters{note}")


@app.command("align")
def align_command(
    hf_dir: Path,
    source: Annotated[Path, typer.Argument(help="one sentence a line, words separated by spaces")],
    target: Annotated[Path, typer.Argument(help="its translations, line by line")],
    layer: Annotated[
        int | None, typer.Option(help="layer whose hidden states are aligned; default: two below the top")
    ] = None,
    cost: Cost = "clip",
    tokenizer: TokenizerDir = None,
) -> None:
    """Print the word links of each pair in Pharaoh format (`i-j`, from 0), one line a pair.

    Example: python -m pipeline align hf/base text.en text.de --layer 8 > links.pharaoh
    """
    from pipeline.evaluate import load_model, longest_side
    from pipeline.gold import read_words
    from pipeline.word_alignment import WordAligner

    sides = read_words(source), read_words(target)
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"{source} has {len(sides[0])} lines, {target} has {len(sides[1])}; give translations line by line"
        )
    encoder, words = load_model(hf_dir, tokenizer)
    layers = encoder.config.layers
    chosen = max(layers - 2, 0) if layer is None else layer
    if not 0 <= chosen <= layers:
        raise ValueError(f"--layer {chosen}: {hf_dir} has {layers} layers; choose 0 to {layers}")
    settings = AlignmentSettings(cost=cost)  # type: ignore[arg-type]
    aligner = WordAligner(words, lambda p: [encoder(p, chosen)], settings, longest_side=longest_side(encoder))
    aligned = aligner.align(zip(*sides, strict=True))
    for (links,) in _progress(aligned, len(sides[0]), "aligning"):
        print(" ".join(f"{i}-{j}" for i, j in links))
    report = aligner.report
    print(
        f"{report.pairs:,} pairs at layer {chosen}; {report.empty_pairs:,} with an empty side, {report.cut_sides:,} sides cut "
        f"({report.cut_words:,} words), {report.non_finite_pairs:,} with non-finite similarities",
        file=sys.stderr,
    )


@app.command("evaluate")
def evaluate_command(
    hf_dir: Path,
    gold: Annotated[list[Path], typer.Option(help="folder with test.<src>, test.<trg>, alignv2.txt; may be repeated")],
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")] = None,
    cost: Cost = "clip",
    tokenizer: TokenizerDir = None,
) -> None:
    """Print AER, the alignment error rate, of every layer against manual word alignments.

    Example: python -m pipeline evaluate hf/base --gold gold/en-cs --gold gold/en-de --json aer.json
    """
    from pipeline.evaluate import evaluate, load_model, table
    from pipeline.gold import read_gold

    golds = [read_gold(folder) for folder in gold]
    encoder, words = load_model(hf_dir, tokenizer)
    settings = AlignmentSettings(cost=cost)  # type: ignore[arg-type]
    evaluations = [
        evaluate(encoder, words, each, settings) for each in _progress(iter(golds), len(golds), "evaluating")
    ]
    Console().print(table(evaluations))
    for e in evaluations:
        best = e.layers[e.best_layer]
        print(
            f"{e.languages}: {e.pairs:,} pairs, best layer {e.best_layer}: AER {best.aer:.3f}, precision {best.precision:.3f}, "
            f"recall {best.recall:.3f}; {e.links_past_the_end} gold links past a sentence's end, {e.report.cut_sides} sides cut"
        )
    if json_file is not None:
        json_file.write_text(json.dumps([e.as_json() for e in evaluations], indent=1) + "\n", encoding="utf-8")


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


def _progress(items: Iterator[Any], total: int, what: str) -> Iterator[Any]:
    console = Console(stderr=True)
    yield from track(items, total=total, description=what, console=console, disable=not console.is_terminal)


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
