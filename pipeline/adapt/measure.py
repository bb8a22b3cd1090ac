"""How well a model aligns before and after: AER where there is gold, else how far it agrees with itself.

Knows encoders, gold and token files; nothing of how the model came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.evaluate.alignment_error import columns_of, evaluate_halves
from pipeline.evaluate.gold import AlignmentScore, Gold
from pipeline.evaluate.self_agreement import self_agreement
from pipeline.model.encoder import Encoder
from pipeline.settings.align_options import AlignOptions, Method, Way
from pipeline.weights.loading import LoadedModel

WAYS = (Way("argmax", "separate"), Way("softmax", "separate"))
"""How token contrast labels words, which suits a plain encoder best; and how they align best once they were contrasted."""
PAIRS = 200
"""Of each language pair of the training text, by which agreement is measured."""


@dataclass
class Measured:
    """A model's figures by layer, 0 the embeddings."""

    layer: int
    """That its words align at."""
    method: Method
    """By which they align there."""
    why: str
    aer: dict[str, list[float]]
    """By gold folder, on its second, fourth, … pair; empty without gold."""
    choosing: dict[Method, list[float]]
    """The mean over all gold folders on the first, third, … pair, by which layer and method are chosen."""
    directions: list[float]
    """Without gold: see `SelfAgreement`."""
    layers: list[float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(model: LoadedModel, layer: int, golds: Sequence[Gold], data_dir: Path, side_tokens: int) -> Measured:
    """Figures of every layer.

    Args:
        layer: that words align at, where there is no gold to choose it by.
        golds: manual alignments, the halves of which choose a layer with a method and report on them.
        data_dir: token files, for agreement where there are none.
    """
    if not golds:
        assert isinstance(model.encoder, Encoder), "training takes no other architecture"
        found = self_agreement(model.encoder, data_dir, PAIRS, side_tokens)
        return Measured(layer, WAYS[0].method, "no gold to choose another by", {}, {}, found.directions, found.layers)
    names = [f"{gold.source_language}-{gold.target_language}" for gold in golds]
    of_golds = [evaluate_halves(model.encoder, model.tokenizer, gold, *WAYS) for gold in golds]
    choosing = {
        way.method: columns_of(names, [aers(halves[at].chosen_on) for halves in of_golds])["avg"]
        for at, way in enumerate(WAYS)
    }
    lowest, best, at = min(
        (value, layer, at) for at, by in enumerate(choosing.values()) for layer, value in enumerate(by)
    )
    aer = columns_of(names, [aers(halves[at].reported_on) for halves in of_golds])
    why = f"the lowest mean AER on every other gold pair, {100 * lowest:.1f} %, of {', '.join(names)}"
    return Measured(best, WAYS[at].method, why, aer, choosing, [], [])


def aers(scores: Sequence[AlignmentScore]) -> list[float]:
    return [score.aer for score in scores]


def options_of(measured: Measured, trained: AlignOptions) -> AlignOptions:
    """How words align with the model, to be recorded with it."""
    return replace(
        trained, layer=measured.layer, method=measured.method, encoding="separate", settings=None, why=measured.why
    )


def rows(before: Measured, after: Measured) -> list[tuple[str, float, float]]:
    """(what, before, after) in percent, each at its own layer; of several gold folders their mean comes last."""
    if after.aer:
        names = [name for name in after.aer if name != "avg" or len(after.aer) > 2]
        return [
            (
                "AER, mean, %" if name == "avg" else f"AER {name}, %",
                100 * before.aer[name][before.layer],
                100 * after.aer[name][after.layer],
            )
            for name in names
        ]
    return [
        ("the two directions agree, %", 100 * before.directions[before.layer], 100 * after.directions[after.layer]),
        ("neighbouring layers agree, %", 100 * before.layers[before.layer], 100 * after.layers[after.layer]),
    ]
