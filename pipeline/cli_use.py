"""The commands that use a trained model: `align` and `evaluate`. Each is a thin layer over one module."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, track

from pipeline.alignment_output import Remembered, format_links
from pipeline.sentence_pairs import PairReader
from sinkhorn_align import AlignmentSettings

PAIRS_A_LINE = 1000
"""Pairs between two updates of the progress bar; a hundred times as many between two lines where there is no terminal."""

Cost = Annotated[str, typer.Option(help="clip: as released; exp: as published")]
TokenizerDir = Annotated[Path | None, typer.Option(help="TOKENIZER_DIR, where HF_DIR holds no SentencePiece model")]
ModelDir = Annotated[Path, typer.Argument(help="Hugging Face folder, run folder or checkpoint")]
MethodOption = Annotated[
    str, typer.Option(help="ot-filter: as in pretraining; ot: the released aligner; argmax: mutual largest cosine")
]
EncodingOption = Annotated[
    str, typer.Option(help="joint: a pair in one sequence, as in pretraining; separate: each side")
]
LayerOption = Annotated[
    int | None, typer.Option(help="layer whose hidden states are aligned; default: two below the top")
]


def align_command(
    hf_dir: ModelDir,
    source: Annotated[Path, typer.Argument(help="one sentence a line; alone: lines of `source ||| target`; -: stdin")],
    target: Annotated[Path | None, typer.Argument(help="its translations, line by line")] = None,
    layer: LayerOption = None,
    method: MethodOption = "ot-filter",
    encoding: EncodingOption = "joint",
    cost: Annotated[
        str | None, typer.Option(help="of ot-filter; clip (default): as released; exp: as published")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="untokenised text: split into words first")] = False,
    scores: Annotated[bool, typer.Option("--scores", help="i-j:score, the cosine of the hidden states")] = False,
    words: Annotated[
        bool, typer.Option("--words", help="`source target` words in place of numbers, a tab apart")
    ] = False,
    split: Annotated[
        Path | None, typer.Option(help="write the words that are counted there, `source ||| target` a line")
    ] = None,
    keep_space_pieces: Annotated[
        bool, typer.Option("--keep-space-pieces", help="a word's lone space piece counts, as in the released aligner")
    ] = False,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16; bf16 is faster where the hardware has it")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, or cuda")] = "cpu",
    tokenizer: TokenizerDir = None,
) -> None:
    """Print the word links of each pair in Pharaoh format (`i-j`, from 0), one line a pair.

    Example: python -m pipeline align hf/base text.en text.de --layer 8 > links.pharaoh
    """
    from pipeline.aligner import Aligner

    reader = PairReader(source, target, raw)
    aligner = Aligner.load(
        hf_dir,
        layer,
        tokenizer_dir=tokenizer,
        dtype=dtype,
        device=device,
        method=method,  # type: ignore[arg-type]
        encoding=encoding,  # type: ignore[arg-type]
        settings=None if cost is None else AlignmentSettings(cost=cost),  # type: ignore[arg-type]
        keep_space_pieces=keep_space_pieces,
    )
    try:
        with ExitStack() as files:
            pairs = Remembered(
                reader, words, None if split is None else files.enter_context(split.open("w", encoding="utf-8"))
            )
            for links in _with_rate(aligner.stream(pairs, scores), reader):
                print(format_links(links, pairs.take(), scores))
    finally:
        report = aligner.report
        print(
            f"{report.pairs:,} pairs at layer {aligner.layer}; {report.empty_pairs:,} with an empty side, "
            f"{report.long_pairs:,} long ones by {report.windows:,} windows, "
            f"{report.non_finite_pairs:,} with non-finite similarities",
            file=sys.stderr,
        )


def evaluate_command(
    hf_dir: ModelDir,
    gold: Annotated[list[Path], typer.Option(help="folder with test.<src>, test.<trg>, alignv2.txt; may be repeated")],
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")] = None,
    cost: Cost = "clip",
    tokenizer: TokenizerDir = None,
) -> None:
    """Print AER, the alignment error rate, of every layer against manual word alignments.

    Example: python -m pipeline evaluate hf/base --gold gold/en-cs --gold gold/en-de --json aer.json
    """
    from pipeline.evaluate import evaluate, table
    from pipeline.gold import read_gold
    from pipeline.loading import load_model

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
            f"recall {best.recall:.3f}; {e.links_past_the_end} gold links past a sentence's end, {e.report.long_pairs} long"
        )
    if json_file is not None:
        json_file.write_text(json.dumps([e.as_json() for e in evaluations], indent=1) + "\n", encoding="utf-8")


def _progress(items: Iterator[Any], total: int, what: str) -> Iterator[Any]:
    console = Console(stderr=True)
    yield from track(items, total=total, description=what, console=console, disable=not console.is_terminal)


def _with_rate(links: Iterable[Any], reader: PairReader) -> Iterator[Any]:
    """Pass the links on, and show how far the reader is: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    size = reader.source.stat().st_size if reader.source.is_file() else None
    columns = (TextColumn("aligning"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("aligning", total=size, rate="")
        for number, each in enumerate(links, start=1):
            yield each
            if number % PAIRS_A_LINE == 0:
                rate = f"{number:,} pairs, {number / (time.monotonic() - started):,.0f} pairs/s"
                bar.update(task, completed=reader.bytes_read, rate=rate)
                if not console.is_terminal and number % (100 * PAIRS_A_LINE) == 0:
                    print(rate, file=sys.stderr)
