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
    vocabulary: Annotated[int, typer.Option(min=8, help="pieces; 250002 is XLM-R's")] = 250002,
    pair_tokens: Annotated[float, typer.Option(min=3, help="average tokens of a pair, special ones included")] = 64.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the figures to this file")] = None,
) -> None:
    """Print what a run takes on so many hosts: memory, bytes between ranks, seconds a step, days.

    Example: python -m pipeline plan pipeline/configs/xlm_align_base.yaml --nodes 4 --gpus 8 --tflops 150
    """
    from dataclasses import asdict

    from pipeline.config import load_config
    from pipeline.plan_scale import Cluster, plan, table, work_of

    work = work_of(load_config(config, overrides or []), vocabulary, None, pair_tokens)
    cluster = Cluster(nodes, gpus, tflops * 1e12, link_gbit * 1e9 / 8, gpu_link_gbit * 1e9 / 8, overlap=overlap)
    planned = plan(work, cluster)
    Console().print(table(work, cluster, planned))
    if json_file is not None:
        content = {"work": asdict(work), "cluster": asdict(cluster), "plan": asdict(planned)}
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
