"""The command `generate`: lines in, and for each a line that a model has written of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.standard_output import data_stream, put
from data_prep.tokenizers.hub import place_of
from pipeline.commands.options import DeviceOption, DtypeOption
from pipeline.commands.progress import Counted
from pipeline.texts.arriving import Arriving
from pipeline.texts.lines import STDIN, Lines, check_is_text, comes_by_and_by, decoded, read_lines

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.generate.generator import Counts, Generator, Written


def generate_command(
    hf_dir: Annotated[
        Path,
        typer.Argument(parser=place_of, help="Hugging Face folder of a model with a decoder, as `export` makes it"),
    ],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="text, a line at a time; -, or none: stdin")
    ] = None,
    to: Annotated[str | None, typer.Option(help="language to write, of those that the model has a tag of")] = None,
    beam: Annotated[int, typer.Option(min=1, help="hypotheses followed at once; 1: greedy search")] = 5,
    length_penalty: Annotated[
        float,
        typer.Option(help="a score is the sum of log-probabilities / tokens to this power; more: longer texts"),
    ] = 1.0,
    n_best: Annotated[
        int, typer.Option(min=1, help="hypotheses of a line; more than 1: lines `number<TAB>score<TAB>text`")
    ] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="tokens written at most, of a line")] = 200,
    words_of: Annotated[
        Path | None, typer.Option(help="text of the language to write: only pieces that occur in it may be written")
    ] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="of the lines read together, padding included")] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="print an object a line, with scores")] = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Write a text for every line: a translation, a question, a summary, whatever the model was trained to write.

    An empty line stays empty. What is longer than the model reads is cut at its end, and counted on standard error.

    Example: python -m pipeline generate hf/translate text.en --to de > text.de
    """
    from pipeline.generate.generator import Generator
    from pipeline.generate.search import Search

    paths = files or [STDIN]
    for path in [*paths, *([] if words_of is None else [words_of])]:
        check_is_text(path)
    how = Search(beam, length_penalty, n_best, max_tokens)
    words = None if words_of is None else read_lines(words_of, "text of the language to write")
    generator = Generator.load(hf_dir, to, how, words_of=words, batch_tokens=batch_tokens, dtype=dtype, device=device)
    print(f"note: {_searched(generator)} {generator.place}", file=sys.stderr)
    try:
        _print_all(generator, paths, as_json)
    finally:
        print(_closing(generator.counts, generator.how.max_tokens), file=sys.stderr)


def _searched(generator: Generator) -> str:
    how = generator.how
    return "greedy search" if how.beam == 1 else f"beam {how.beam}, length penalty {how.length_penalty:g}"


def _print_all(generator: Generator, paths: Sequence[Path], as_json: bool) -> None:
    sources = [Lines(path) for path in paths]
    sizes = [source.size for source in sources]
    size = None if None in sizes else sum(filter(None, sizes))
    texts = _texts(sources)
    number = 0
    with Counted("generating", "lines") as progress:
        for ready in generator.stream(Arriving(texts) if any(map(comes_by_and_by, paths)) else texts):
            for written in ready:
                number += 1
                put(_line(number, written, generator.how.n_best, as_json))
            data_stream().flush()  # more may have to be waited for
            read = sum(source.bytes_read for source in sources)
            progress.show(generator.counts.lines, read / size if size else None)


def _texts(sources: Sequence[Lines]) -> Iterator[str]:
    for source in sources:
        with ExitStack() as files:
            for number, line in enumerate(source.open(files), start=1):
                yield decoded(line, source.path, number)


def _line(number: int, written: Written, n_best: int, as_json: bool) -> str:
    if as_json:
        hypotheses = [{"text": each.text, "score": each.score, "tokens": each.tokens} for each in written.hypotheses]
        return json.dumps({"line": number, "source": written.source, "hypotheses": hypotheses}, ensure_ascii=False)
    if n_best == 1:
        return written.text
    return "\n".join(f"{number}\t{each.score:.4f}\t{each.text}" for each in written.hypotheses)


def _closing(counts: Counts, most: int) -> str:
    said = [f"{counts.lines:,} lines, {counts.tokens:,} tokens written"]
    if counts.cut:
        said.append(f"{counts.cut:,} lines are longer than the model reads and were cut, first line {counts.first_cut}")
    if counts.unended:
        said.append(f"{counts.unended:,} lines were ended at {most} tokens (--max-tokens)")
    return "; ".join(said)
