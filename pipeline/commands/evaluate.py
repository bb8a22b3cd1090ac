"""The command `evaluate`: alignment error rate, sentence retrieval and perplexity of a model, as tables and JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from data_prep.files import check_output, write_text
from data_prep.standard_output import data_console, put
from pipeline.commands.options import (
    CostOption,
    DeviceOption,
    DtypeOption,
    EncodingOption,
    FromOneOption,
    MethodOption,
    ModelDir,
    TokenizerDir,
    settings_of,
)
from pipeline.settings.align_options import AlignOptions, Chosen, note, resolve

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.evaluate.gold import Gold
    from pipeline.evaluate.retrieval import Sentences
    from pipeline.model.devices import Place
    from pipeline.weights.loading import LoadedModel

PLAIN_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""

Panel = tuple[str, dict[str, list[float]]]
"""A title and the curves over layers below it."""


def evaluate_command(
    hf_dir: ModelDir,
    gold: Annotated[
        list[Path] | None,
        typer.Option(help="folder with test.<src>, test.<trg>, alignv2.txt, or of such folders; may be repeated"),
    ] = None,
    from_one: FromOneOption = None,
    retrieval: Annotated[
        list[Path] | None,
        typer.Option(
            help="line-aligned files or their folder, as PUD, Tatoeba, FLORES or NTREX name them; may be repeated"
        ),
    ] = None,
    sentences: Annotated[
        int | None, typer.Option(min=1, help="first so many of each retrieval pair; default: all")
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
    tokenizer: TokenizerDir = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Print AER, the alignment error rate, of every layer against manual word alignments; retrieval and perplexity too.

    Example: python -m pipeline evaluate hf/base --gold gold/en-cs --gold gold/en-de --json aer.json
    """
    from pipeline.model.devices import choose_place
    from pipeline.show.picture import draw_layers
    from pipeline.weights.loading import load

    gold, retrieval = gold or [], retrieval or []
    _check_request(hf_dir, gold, retrieval, perplexity, record, json_file, picture)
    place = choose_place(device, dtype)
    golds, texts = _read_texts(gold, from_one, retrieval, sentences)
    loaded = load(hf_dir, tokenizer, with_head=perplexity is not None).to(place)
    console = data_console()
    entries: list[dict[str, Any]] = []
    panels: list[Panel] = []
    if golds:
        chosen = Chosen(None, method, encoding, settings_of(cost))
        entries, panels = _evaluate_ways(console, loaded, golds, chosen, place, hf_dir if record else None)
    if texts:
        measured, panel = _evaluate_retrieval(console, loaded, texts)
        entries += measured
        panels.append(panel)
    if perplexity is not None:
        entries += _evaluate_perplexity(console, loaded, hf_dir, perplexity, blocks)
    if json_file is not None:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")
    if picture is not None:
        draw_layers(panels, picture)


def _check_request(
    hf_dir: Path,
    gold: Sequence[Path],
    retrieval: Sequence[Path],
    perplexity: Path | None,
    record: bool,
    json_file: Path | None,
    picture: Path | None,
) -> None:
    """ValueError, before anything is read, where options do not go together or an output cannot be written."""
    from pipeline.evaluate.alignment_error import gold_folders
    from pipeline.weights.model_record import check_recordable

    if not gold and not retrieval and perplexity is None:
        raise ValueError("evaluate: nothing to measure; give --gold, --retrieval or --perplexity")
    if picture is not None and not gold and not retrieval:
        raise ValueError(f"--picture {picture}: only AER and retrieval have layers; give --gold or --retrieval too")
    if record and not gold:
        raise ValueError("--record: only AER tells how words align best; give --gold too")
    _check_outputs((json_file, picture), (hf_dir, *gold_folders(gold), *retrieval))
    if record:
        check_recordable(hf_dir)


def _read_texts(
    gold: Sequence[Path], from_one: bool | None, retrieval: Sequence[Path], sentences: int | None
) -> tuple[list[Gold], list[Sentences]]:
    """The gold pairs, with notes on them, and the sentences."""
    from pipeline.evaluate.alignment_error import gold_folders
    from pipeline.evaluate.gold import read_gold
    from pipeline.texts.sentence_files import find_pairs

    golds = [read_gold(folder, from_one=from_one) for folder in gold_folders(gold)]
    for remark in (remark for each in golds for remark in each.notes):
        print(f"note: {remark}", file=sys.stderr)
    texts = find_pairs(*retrieval)
    return golds, texts if sentences is None else [pair.loaded(sentences) for pair in texts]


def _check_outputs(files: Sequence[Path | None], inputs: Sequence[Path]) -> None:
    """Try the places of the files before anything is measured; no file of the inputs is written over."""
    given = [path for place in inputs for path in (sorted(place.iterdir()) if place.is_dir() else [place])]
    for file in files:
        if file is not None:
            check_output(file, given)


def _evaluate_ways(
    console: Console, loaded: LoadedModel, golds: Sequence[Gold], chosen: Chosen, place: Place, record_in: Path | None
) -> tuple[list[dict[str, Any]], list[Panel]]:
    """AER of the chosen way to align, or of both that are usual where the better one is to be recorded."""
    from pipeline.weights.model_record import write_options

    entries: list[dict[str, Any]] = []
    panels: list[Panel] = []
    taken = resolve(loaded.encoder.config.layers, loaded.recorded, chosen)
    ways = ways_to_align(taken) if record_in is not None and chosen == Chosen() else [taken]
    for way in ways:
        print(f"note: {note(way, place)}", file=sys.stderr)
        measured, panel = _evaluate_gold(console, loaded, golds, way)
        entries += measured
        panels.append(panel if len(ways) == 1 else (f"AER, {way.method}, {way.encoding}", panel[1]))
    best = best_options([(way, panel[1]["avg"]) for way, panel in zip(ways, panels, strict=True)], golds)
    print(f"best: {best.describe()} ({best.why})", file=sys.stderr)
    if record_in is not None:
        print(f"recorded in {write_options(record_in, best)}", file=sys.stderr)
    return entries, panels


def _evaluate_gold(
    console: Console, loaded: LoadedModel, golds: Sequence[Gold], way: AlignOptions
) -> tuple[list[dict[str, Any]], Panel]:
    from pipeline.evaluate.alignment_error import columns_of, evaluate, released_lines, table

    scores = [evaluate(loaded.encoder, loaded.tokenizer, each, way.way) for each in _progress(golds, "aligning")]
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
    console: Console, loaded: LoadedModel, sentences: Sequence[Sentences]
) -> tuple[list[dict[str, Any]], Panel]:
    from pipeline.evaluate.alignment_error import columns_of, retrieval_table
    from pipeline.evaluate.retrieval import SentencePooler, evaluate_retrieval

    pooler = SentencePooler(loaded.tokenizer, loaded.encoder.hidden_states, loaded.encoder.config.longest)
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
    console: Console, loaded: LoadedModel, folder: Path, data_dir: Path, blocks: int
) -> list[dict[str, Any]]:
    from data_prep.tokenizers.tokenizer import Tokenizer
    from pipeline.evaluate.alignment_error import perplexity_table
    from pipeline.evaluate.perplexity import evaluate_perplexity
    from pipeline.model.encoder import Encoder
    from pipeline.weights.loading import head_of

    encoder, words = loaded.encoder, loaded.tokenizer
    assert isinstance(encoder, Encoder) and isinstance(words, Tokenizer), "the head of others is not read"
    scores = evaluate_perplexity(
        data_dir,
        encoder,
        head_of(loaded.head, folder),
        words,
        blocks,
        lambda languages: _progress(languages, "predicting"),
    )
    console.print(perplexity_table(scores))
    return [p.as_json() for p in scores]


def _progress(items: Sequence[Any], what: str) -> Iterator[Any]:
    """The items, and on standard error how far they have come: a bar on a terminal, elsewhere a line now and then."""
    console = Console(stderr=True)
    began = shown = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=len(items))
        for number, item in enumerate(items):
            if not console.is_terminal and time.monotonic() - shown > PLAIN_SECONDS:
                shown = time.monotonic()
                print(f"{what}: {number} of {len(items)}, {shown - began:.0f} s", file=sys.stderr)
            yield item
            bar.advance(task)
