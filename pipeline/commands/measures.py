"""What `evaluate` measures and prints: of each measure the tables, and the entries of its JSON file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from data_prep.standard_output import put
from pipeline.settings.align_options import AlignOptions, Chosen, note, resolve

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.evaluate.gold import Gold
    from pipeline.evaluate.protocols import AppliedProtocol
    from pipeline.evaluate.retrieval import Score
    from pipeline.model.devices import Place
    from pipeline.texts.sentence_files import Sentences
    from pipeline.weights.loading import LoadedModel

PLAIN_SECONDS = 10.0
"""Between two lines of progress where there is no terminal."""

Panel = tuple[str, dict[str, list[float]]]
"""A title and the curves over layers below it."""


def evaluate_ways(
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

    scores = [evaluate(loaded.encoder, loaded.tokenizer, each, way.way) for each in progress(golds, "aligning")]
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


def score_of(name: str) -> Score:
    """By which retrieval takes the best sentence; ValueError where there is no such score."""
    scores: dict[str, Score] = {"cosine": "cosine", "margin": "margin"}
    if name in scores:
        return scores[name]
    raise ValueError(f"--score {name!r}: choose cosine or margin")


def retrieve_at_all_layers(
    console: Console, loaded: LoadedModel, sentences: Sequence[Sentences], score: Score
) -> tuple[list[dict[str, Any]], Panel]:
    """Retrieval at every layer, as pretraining's validation measures it."""
    from pipeline.evaluate.alignment_error import columns_of, retrieval_table
    from pipeline.evaluate.retrieval import SentencePooler, evaluate_retrieval

    pooler = SentencePooler(loaded.tokenizer, loaded.encoder.hidden_states, loaded.encoder.config.longest)
    found = evaluate_retrieval(sentences, pooler, lambda pairs: progress(pairs, "retrieving"), score)
    console.print(retrieval_table(found))
    for r in found:
        best = r.best_layer
        put(
            f"{r.languages}: {r.sentences:,} sentences, best layer {best}: {100 * r.forward[best]:.2f} % forward, "
            f"{100 * r.backward[best]:.2f} % backward; {r.cut} sentences cut"
        )
    columns = columns_of([r.languages for r in found], [r.mean for r in found])
    return [r.as_json() for r in found], ("retrieval accuracy", columns)


def retrieve_by_protocol(
    console: Console,
    loaded: LoadedModel,
    sentences: Sequence[Sentences],
    chosen: AppliedProtocol,
    score: Score,
    predictions: Path | None,
) -> list[dict[str, Any]]:
    """Retrieval by a published protocol; predictions: where they are written in XTREME's layout."""
    from pipeline.evaluate.alignment_error import protocol_table
    from pipeline.evaluate.protocols import evaluate_protocol, found_by_pivot, tatoeba_files
    from pipeline.evaluate.xtreme_files import write_found

    scores = []
    found = evaluate_protocol(sentences, loaded, chosen, score, lambda pairs: progress(pairs, "retrieving"))
    files = [None] * len(sentences) if predictions is None else tatoeba_files(predictions, sentences)
    for (of_pair, matches), file in zip(found, files, strict=True):
        scores.append(of_pair)
        if file is not None:
            write_found(file, found_by_pivot(matches).tolist())
    put(f"retrieval by {chosen.name} ({chosen.words}), {score}; higher is better")
    console.print(protocol_table(scores))
    if cut := sum(of_pair.cut for of_pair in scores):
        put(f"{cut} sentences cut")
    return [of_pair.as_json() for of_pair in scores]


def measure_perplexity(
    console: Console, loaded: LoadedModel, folder: Path, data_dir: Path, blocks: int
) -> list[dict[str, Any]]:
    """Perplexity of held-out text."""
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
        lambda languages: progress(languages, "predicting"),
    )
    console.print(perplexity_table(scores))
    return [p.as_json() for p in scores]


def progress(items: Sequence[Any], what: str) -> Iterator[Any]:
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
