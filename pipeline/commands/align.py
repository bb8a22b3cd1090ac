"""The commands that use a trained model: `align` and `evaluate`. Each is a thin layer over one module."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, track

from pipeline.use.alignment_output import Remembered, format_links
from pipeline.use.sentence_pairs import PairReader
from pipeline.use.word_alignment import WINDOW
from sinkhorn_align import AlignmentSettings

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from data_prep.tokenizer import Tokenizer
    from pipeline.model import Encoder
    from pipeline.objectives.masked_lm import MaskedLMHead
    from pipeline.use.gold import Gold
    from pipeline.use.retrieval import Sentences

Panel = tuple[str, dict[str, list[float]]]
"""A title and the curves over layers below it."""

PAIRS_A_LINE = 1000
"""Pairs between two updates of the progress bar; a hundred times as many between two lines where there is no terminal."""

CostOption = Annotated[str | None, typer.Option(help="of ot-filter; clip (default): as released; exp: as published")]
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
    gold: Annotated[
        list[Path] | None,
        typer.Option(help="folder with test.<src>, test.<trg>, alignv2.txt, or of such folders; may be repeated"),
    ] = None,
    retrieval: Annotated[
        list[Path] | None, typer.Option(help="line-aligned files in the layout of PUD or Tatoeba; may be repeated")
    ] = None,
    perplexity: Annotated[Path | None, typer.Option(help="DATA_DIR of held-out text; needs the masked-LM head")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")] = None,
    picture: Annotated[Path | None, typer.Option(help="draw AER and retrieval over layers there, a PNG")] = None,
    method: MethodOption = "ot-filter",
    encoding: EncodingOption = "joint",
    cost: CostOption = None,
    blocks: Annotated[int, typer.Option(min=1, help="blocks per language for the perplexity")] = 256,
    tokenizer: TokenizerDir = None,
) -> None:
    """Print AER, the alignment error rate, of every layer against manual word alignments; retrieval and perplexity too.

    Example: python -m pipeline evaluate hf/base --gold gold/en-cs --gold gold/en-de --json aer.json
    """
    from pipeline.use.evaluate import gold_folders
    from pipeline.use.gold import read_gold
    from pipeline.use.loading import load_masked_lm, load_model
    from pipeline.use.picture import draw_layers
    from pipeline.use.retrieval import find_pairs

    if not gold and not retrieval and perplexity is None:
        raise ValueError("evaluate: nothing to measure; give --gold, --retrieval or --perplexity")
    if picture is not None and not gold and not retrieval:
        raise ValueError(f"--picture {picture}: only AER and retrieval have layers; give --gold or --retrieval too")
    golds = [read_gold(folder) for folder in gold_folders(gold or [])]
    sentences = [pair for place in retrieval or [] for pair in find_pairs(place)]
    if perplexity is None:
        encoder, words = load_model(hf_dir, tokenizer)
    else:
        encoder, head, words = load_masked_lm(hf_dir, tokenizer)
    console = Console(width=None if sys.stdout.isatty() else 200)
    entries: list[dict[str, Any]] = []
    panels: list[Panel] = []
    if golds:
        settings = None if cost is None else AlignmentSettings(cost=cost)  # type: ignore[arg-type]
        aligning = {"settings": settings, "method": method, "encoding": encoding}
        measured, panel = _evaluate_gold(console, encoder, words, golds, aligning)
        entries += measured
        panels.append(panel)
    if sentences:
        measured, panel = _evaluate_retrieval(console, encoder, words, sentences)
        entries += measured
        panels.append(panel)
    if perplexity is not None:
        entries += _evaluate_perplexity(console, encoder, head, words, perplexity, blocks)
    if json_file is not None:
        json_file.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    if picture is not None:
        draw_layers(panels, picture)


def _evaluate_gold(
    console: Console, encoder: Encoder, words: Tokenizer, golds: Sequence[Gold], aligning: dict[str, Any]
) -> tuple[list[dict[str, Any]], Panel]:
    from pipeline.use.evaluate import columns_of, evaluate, released_lines, table

    scores = [evaluate(encoder, words, each, **aligning) for each in _progress(golds, "aligning")]
    print("\n".join(map(released_lines, scores)))
    console.print(table(scores))
    for e in scores:
        best = e.layers[e.best_layer]
        print(
            f"{e.languages}: {e.pairs:,} pairs, best layer {e.best_layer}: AER {best.aer:.3f}, precision "
            f"{best.precision:.3f}, recall {best.recall:.3f}; {e.links_past_the_end} gold links past a sentence's end, "
            f"{e.report.long_pairs} long pairs by windows"
        )
    columns = columns_of([e.languages for e in scores], [[layer.aer for layer in e.layers] for e in scores])
    return [e.as_json() for e in scores], ("AER", columns)


def _evaluate_retrieval(
    console: Console, encoder: Encoder, words: Tokenizer, sentences: Sequence[Sentences]
) -> tuple[list[dict[str, Any]], Panel]:
    from pipeline.use.evaluate import columns_of, retrieval_table
    from pipeline.use.retrieval import SentencePooler, evaluate_retrieval

    pooler = SentencePooler(words, encoder.hidden_states, encoder.config.positions - 2)
    found = evaluate_retrieval(sentences, pooler, lambda pairs: _progress(pairs, "retrieving"))
    console.print(retrieval_table(found))
    for r in found:
        best = r.best_layer
        print(
            f"{r.languages}: {r.sentences:,} sentences, best layer {best}: {100 * r.forward[best]:.2f} % forward, "
            f"{100 * r.backward[best]:.2f} % backward; {r.cut} sentences cut"
        )
    columns = columns_of([r.languages for r in found], [r.mean for r in found])
    return [r.as_json() for r in found], ("retrieval accuracy", columns)


def _evaluate_perplexity(
    console: Console, encoder: Encoder, head: MaskedLMHead, words: Tokenizer, data_dir: Path, blocks: int
) -> list[dict[str, Any]]:
    from pipeline.use.evaluate import perplexity_table
    from pipeline.use.perplexity import evaluate_perplexity

    scores = evaluate_perplexity(
        data_dir, encoder, head, words, blocks, lambda languages: _progress(languages, "predicting")
    )
    console.print(perplexity_table(scores))
    return [p.as_json() for p in scores]


def _progress(items: Sequence[Any], what: str) -> Iterator[Any]:
    console = Console(stderr=True)
    yield from track(items, description=what, console=console, disable=not console.is_terminal)


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
