"""AER of every layer of a model against gold alignments, and the tables by which a layer is chosen.

Knows an encoder with its tokenizer, and gold; `retrieval` and `perplexity` beside it measure the other uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rich.table import Table

from pipeline.align.word_alignment import AlignmentReport, WordAligner
from pipeline.evaluate.gold import AlignmentScore, Gold, score_links
from pipeline.evaluate.perplexity import Perplexity
from pipeline.evaluate.protocols import ProtocolScore
from pipeline.evaluate.retrieval import Retrieval
from pipeline.model.transformers_encoder import AnyEncoder
from pipeline.settings.align_options import AS_TRAINED, Encoding, Method, Way
from pipeline.weights.loading import AnyTokenizer, longest_side


@dataclass
class Evaluation:
    """Scores per layer (0: embeddings) of one gold folder, and what was long or skipped on the way."""

    languages: str
    pairs: int
    layers: list[AlignmentScore]
    links_past_the_end: int
    report: AlignmentReport
    method: Method
    encoding: Encoding

    @property
    def best_layer(self) -> int:
        return best_layer(self.layers)

    def as_json(self) -> dict[str, Any]:
        return {"kind": "alignment", **asdict(self), "best_layer": self.best_layer}


def score_layers(aligner: WordAligner, gold: Gold) -> list[AlignmentScore]:
    """Align the gold pairs and score each layer that the aligner gives."""
    links_by_pair = list(aligner.align(zip(gold.source, gold.target, strict=True)))
    return [score_links(links, gold) for links in zip(*links_by_pair, strict=True)]


def best_layer(layers: Sequence[AlignmentScore]) -> int:
    """The lowest layer with the lowest AER."""
    return min(range(len(layers)), key=lambda layer: layers[layer].aer)


def evaluate(encoder: AnyEncoder, tokenizer: AnyTokenizer, gold: Gold, way: Way = AS_TRAINED) -> Evaluation:
    """Align the gold folder's pairs with every layer, and score each."""
    aligner = _aligner_of_all_layers(encoder, tokenizer, way)
    layers = score_layers(aligner, gold)
    languages = f"{gold.source_language}-{gold.target_language}"
    past = gold.links_past_the_end
    return Evaluation(languages, len(gold), layers, past, aligner.report, way.method, way.encoding)


class Halves(NamedTuple):
    """Scores of every layer."""

    chosen_on: list[AlignmentScore]
    """On the first, third, … pair, to choose a layer by."""
    reported_on: list[AlignmentScore]
    """On the others."""


def evaluate_halves(encoder: AnyEncoder, tokenizer: AnyTokenizer, gold: Gold, *ways: Way) -> list[Halves]:
    """Scores of each of the ways, which are of one encoding: hidden states, which take most of the time, are made once."""
    aligner = _aligner_of_all_layers(encoder, tokenizer, *ways)
    by_layer = list(zip(*aligner.align(zip(gold.source, gold.target, strict=True)), strict=True))
    odd, even = (
        [score_links(links[half], gold.part(half)) for links in by_layer]
        for half in (slice(0, None, 2), slice(1, None, 2))
    )
    layers = len(by_layer) // len(ways)
    return [Halves(odd[at : at + layers], even[at : at + layers]) for at in range(0, len(by_layer), layers)]


def _aligner_of_all_layers(encoder: AnyEncoder, tokenizer: AnyTokenizer, way: Way, *also: Way) -> WordAligner:
    return WordAligner(
        tokenizer,
        encoder.hidden_states,
        way,
        also=also,
        longest_side=longest_side(encoder.config, way.encoding, tokenizer.template),
        side_by_side=next(encoder.parameters()).device.type == "cpu",
    )


def gold_folders(places: Iterable[Path]) -> list[Path]:
    """Gold folders as given; of a folder without test files, all the folders in it that have some."""
    folders = []
    for place in places:
        inside = [] if any(place.glob("test.*")) else sorted({path.parent for path in place.glob("*/test.*")})
        folders += inside or [place]
    return folders


def released_lines(evaluation: Evaluation) -> str:
    """Percentages of every layer as the released aligner prints them."""
    scores = {"p": "precision", "r": "recall", "f1": "f1", "aer": "aer"}
    lines = [f"Language pair: {evaluation.languages}"]
    for short, name in scores.items():
        lines.append(f"{short}: " + ", ".join(f"{100 * getattr(layer, name):.2f}" for layer in evaluation.layers))
    return "\n".join(lines)


def table(evaluations: Sequence[Evaluation]) -> Table:
    """AER per layer in percent, a column per gold folder and their mean, the best of each marked."""
    columns = columns_of([e.languages for e in evaluations], [[100 * s.aer for s in e.layers] for e in evaluations])
    return _by_layer("AER by layer, % (lower is better)", columns, lower=True)


def retrieval_table(results: Sequence[Retrieval]) -> Table:
    """Accuracy per layer in percent over both directions, a column per pair and their mean, the best of each marked."""
    columns = columns_of([r.languages for r in results], [[100 * share for share in r.mean] for r in results])
    by = "" if results[0].score == "cosine" else f" by {results[0].score}"
    title = f"retrieval accuracy{by} by layer, %, mean of both directions (higher is better)"
    return _by_layer(title, columns, lower=False)


def protocol_table(results: Sequence[ProtocolScore]) -> Table:
    """Accuracy in percent, a row per pair and their means, a column per direction."""
    drawn = Table()
    for column in ("pair", "sentences", "pivot", "from it %", "to it %"):
        drawn.add_column(column, justify="left" if column in ("pair", "pivot") else "right")
    for r in results:
        shares = (f"{100 * share:.2f}" for share in (r.from_pivot, r.to_pivot))
        drawn.add_row(r.languages, f"{r.sentences:,}", r.pivot, *shares, end_section=r is results[-1])
    means = (f"{100 * mean(shares):.2f}" for shares in zip(*((r.from_pivot, r.to_pivot) for r in results), strict=True))
    drawn.add_row("avg", "", "", *means)
    return drawn


def perplexity_table(results: Sequence[Perplexity]) -> Table:
    drawn = Table(title="masked-LM perplexity (lower is better)")
    for column in ("language", "perplexity", "accuracy %", "predicted tokens"):
        drawn.add_column(column, justify="left" if column == "language" else "right")
    for r in results:
        drawn.add_row(r.language, f"{r.perplexity:,.2f}", f"{100 * r.accuracy:.2f}", f"{r.predicted_tokens:,}")
    return drawn


def columns_of(names: Sequence[str], values: Sequence[list[float]]) -> dict[str, list[float]]:
    """Values by layer of every name, and their mean as `avg`; a name that comes again gets a number."""
    columns = dict(zip(distinct(names), values, strict=True))
    return columns | {"avg": [mean(row) for row in zip(*values, strict=True)]}


def distinct(names: Sequence[str]) -> list[str]:
    """The names; one that comes again gets a number."""
    again = [names[:at].count(name) for at, name in enumerate(names)]
    return [f"{name} ({before + 1})" if before else name for name, before in zip(names, again, strict=True)]


def _by_layer(title: str, columns: dict[str, list[float]], lower: bool) -> Table:
    best = {name: (min if lower else max)(values) for name, values in columns.items()}
    drawn = Table(title=title)
    for name in ("layer", *columns):
        drawn.add_column(name, justify="right")
    for layer in range(len(columns["avg"])):
        marks = [f"{v[layer]:.2f}{' *' if v[layer] == best[name] else '  '}" for name, v in columns.items()]
        drawn.add_row(str(layer), *marks)
    return drawn
