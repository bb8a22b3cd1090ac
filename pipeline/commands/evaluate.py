"""The command `evaluate`: alignment error rate, sentence retrieval and perplexity of a model, as tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from data_prep.files import check_output, write_text
from data_prep.standard_output import data_console, put
from pipeline.commands.options import CostOption, DeviceOption, EncodingOption, MethodOption, ModelDir, TokenizerDir
from pipeline.use.align_options import AlignOptions, note, resolve
from sinkhorn_align import AlignmentSettings

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from data_prep.tokenizer import Tokenizer
    from pipeline.model import Encoder
    from pipeline.objectives.masked_lm import MaskedLMHead
    from pipeline.use.gold import Gold
    from pipeline.use.retrieval import Sentences

Panel = tuple[str, dict[str, list[float]]]
"""A title and the curves over layers below it."""


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
    method: MethodOption = None,
    encoding: EncodingOption = None,
    cost: CostOption = None,
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="keep the best layer, by the mean AER over all of --gold, with the model, where align, show and demo find it; "
            "without --method, --encoding and --cost the better of ot-filter, joint and argmax, separate is kept too",
        ),
    ] = False,
    blocks: Annotated[int, typer.Option(min=1, help="blocks per language for the perplexity")] = 256,
    device: DeviceOption = "auto",
    tokenizer: TokenizerDir = None,
) -> None:
    """Print AER, the alignment error rate, of every layer against manual word alignments; retrieval and perplexity too.

    Example: python -m pipeline evaluate hf/base --gold gold/en-cs --gold gold/en-de --json aer.json
    """
    from pipeline.use.devices import device_of
    from pipeline.use.evaluate import gold_folders
    from pipeline.use.gold import read_gold
    from pipeline.use.loading import head_of, load
    from pipeline.use.model_record import write_options
    from pipeline.use.picture import draw_layers
    from pipeline.use.retrieval import find_pairs

    if not gold and not retrieval and perplexity is None:
        raise ValueError("evaluate: nothing to measure; give --gold, --retrieval or --perplexity")
    if picture is not None and not gold and not retrieval:
        raise ValueError(f"--picture {picture}: only AER and retrieval have layers; give --gold or --retrieval too")
    if record and not gold:
        raise ValueError("--record: only AER tells how words align best; give --gold too")
    for file in (json_file, picture):
        if file is not None:
            check_output(file)
    golds = [read_gold(folder) for folder in gold_folders(gold or [])]
    sentences = [pair for place in retrieval or [] for pair in find_pairs(place)]
    place = device_of(device)
    loaded = load(hf_dir, tokenizer, with_head=perplexity is not None)
    encoder, words = loaded.encoder.to(place), loaded.tokenizer
    head = None if perplexity is None else head_of(loaded, hf_dir).to(place)
    console = data_console()
    entries: list[dict[str, Any]] = []
    panels: list[Panel] = []
    if golds:
        settings = None if cost is None else AlignmentSettings(cost=cost)  # type: ignore[arg-type]
        taken = resolve(
            encoder.config.layers,
            loaded.recorded,
            method=method,  # type: ignore[arg-type]
            encoding=encoding,  # type: ignore[arg-type]
            settings=settings,
        )
        ways = ways_to_align(taken) if record and (method, encoding, cost) == (None, None, None) else [taken]
        for way in ways:
            print(f"note: {note(way)}", file=sys.stderr)
            measured, panel = _evaluate_gold(console, encoder, words, golds, way)
            entries += measured
            panels.append(panel if len(ways) == 1 else (f"AER, {way.method}, {way.encoding}", panel[1]))
        best = best_options([(way, panel[1]["avg"]) for way, panel in zip(ways, panels, strict=True)], golds)
        print(f"best: {best.describe()} ({best.why})", file=sys.stderr)
        if record:
            print(f"recorded in {write_options(hf_dir, best)}", file=sys.stderr)
    if sentences:
        measured, panel = _evaluate_retrieval(console, encoder, words, sentences)
        entries += measured
        panels.append(panel)
    if perplexity is not None and head is not None:
        entries += _evaluate_perplexity(console, encoder, head, words, perplexity, blocks)
    if json_file is not None:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")
    if picture is not None:
        draw_layers(panels, picture)


def _evaluate_gold(
    console: Console, encoder: Encoder, words: Tokenizer, golds: Sequence[Gold], way: AlignOptions
) -> tuple[list[dict[str, Any]], Panel]:
    from pipeline.use.evaluate import columns_of, evaluate, released_lines, table

    scores = [
        evaluate(encoder, words, each, way.settings, way.method, way.encoding) for each in _progress(golds, "aligning")
    ]
    put("\n".join(map(released_lines, scores)))
    console.print(table(scores))
    for e in scores:
        best = e.layers[e.best_layer]
        put(
            f"{e.languages}: {e.pairs:,} pairs, best layer {e.best_layer}: AER {best.aer:.3f}, precision "
            f"{best.precision:.3f}, recall {best.recall:.3f}; {e.links_past_the_end} gold links past a sentence's end, "
            f"{e.report.long_pairs} long pairs by windows"
        )
    columns = columns_of([e.languages for e in scores], [[layer.aer for layer in e.layers] for e in scores])
    return [e.as_json() for e in scores], ("AER", columns)


def ways_to_align(taken: AlignOptions) -> list[AlignOptions]:
    """The options that are taken, and the other of the two ways that are known to align well."""
    if taken.method == "argmax":
        return [taken, replace(taken, method="ot-filter", encoding="joint", why="tried as well")]
    return [taken, replace(taken, method="argmax", encoding="separate", settings=None, why="tried as well")]


def best_options(ways: Sequence[tuple[AlignOptions, list[float]]], golds: Sequence[Gold]) -> AlignOptions:
    """The way and the lowest layer with the lowest mean AER; each way comes with its mean AER by layer."""
    way, by_layer = min(ways, key=lambda each: min(each[1]))
    aer = min(by_layer)
    names = ", ".join(f"{gold.source_language}-{gold.target_language}" for gold in golds)
    return replace(
        way, layer=by_layer.index(aer), why=f"the lowest mean AER of evaluate, {100 * aer:.1f} %, on {names}"
    )


def _evaluate_retrieval(
    console: Console, encoder: Encoder, words: Tokenizer, sentences: Sequence[Sentences]
) -> tuple[list[dict[str, Any]], Panel]:
    from pipeline.use.evaluate import columns_of, retrieval_table
    from pipeline.use.retrieval import SentencePooler, evaluate_retrieval

    place = next(encoder.parameters()).device
    pooler = SentencePooler(words, lambda packed: encoder.hidden_states(packed.to(place)), encoder.config.positions - 2)
    found = evaluate_retrieval(sentences, pooler, lambda pairs: _progress(pairs, "retrieving"))
    console.print(retrieval_table(found))
    for r in found:
        best = r.best_layer
        put(
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
