"""The command `align`: sentence pairs in, word links out, one line a pair."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data_prep.standard_output import put
from pipeline.commands.options import CostOption, EncodingOption, LayerOption, MethodOption, ModelDir, TokenizerDir
from pipeline.use.align_options import WINDOW, note
from pipeline.use.alignment_output import Remembered, format_links
from pipeline.use.sentence_pairs import PairReader
from sinkhorn_align import AlignmentSettings

PAIRS_A_LINE = 1000
"""Pairs between two updates of the progress bar; a hundred times as many between two lines where there is no terminal."""


def align_command(
    hf_dir: ModelDir,
    source: Annotated[Path, typer.Argument(help="one sentence a line; alone: lines of `source ||| target`; -: stdin")],
    target: Annotated[Path | None, typer.Argument(help="its translations, line by line")] = None,
    layer: LayerOption = None,
    method: MethodOption = None,
    encoding: EncodingOption = None,
    cost: CostOption = None,
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
    window: Annotated[int, typer.Option(help="tokens of the windows of sentences too long for the model")] = WINDOW,
    dtype: Annotated[str, typer.Option(help="fp32 or bf16; bf16 is faster where the hardware has it")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, or cuda")] = "cpu",
    tokenizer: TokenizerDir = None,
) -> None:
    """Print the word links of each pair in Pharaoh format (`i-j`, from 0), one line a pair.

    Example: python -m pipeline align hf/base text.en text.de --layer 8 > links.pharaoh
    """
    from pipeline.use.aligner import Aligner

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
        window=window,
    )
    print(f"note: {note(aligner.options)}", file=sys.stderr)
    try:
        with ExitStack() as files:
            pairs = Remembered(
                reader, words, None if split is None else files.enter_context(split.open("w", encoding="utf-8"))
            )
            for links in _with_rate(aligner.stream(pairs, scores), reader):
                put(format_links(links, pairs.take(), scores))
    finally:
        report = aligner.report
        print(
            f"{report.pairs:,} pairs at layer {aligner.layer}; {report.empty_pairs:,} with an empty side, "
            f"{report.long_pairs:,} long ones by {report.windows:,} windows, "
            f"{report.non_finite_pairs:,} with non-finite similarities",
            file=sys.stderr,
        )


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
