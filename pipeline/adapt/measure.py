"""How well a model aligns before and after: AER where there is gold, else how far it agrees with itself.

Knows encoders, gold and token files; nothing of how the model came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.evaluate.alignment_error import columns_of, evaluate_halves
from pipeline.evaluate.gold import Gold
from pipeline.evaluate.self_agreement import self_agreement
from pipeline.model.encoder import Encoder
from pipeline.settings.align_options import AlignOptions, Way
from pipeline.weights.loading import LoadedModel

WAY = Way("argmax", "separate")
"""As token contrast trains, and as suits a plain encoder best."""
PAIRS = 200
"""Of each language pair of the training text, by which agreement is measured."""


@dataclass
class Measured:
    """A model's figures by layer, 0 the embeddings."""

    layer: int
    """That its words align at."""
    why: str
    aer: dict[str, list[float]]
    """By gold folder, on its second, fourth, … pair; empty without gold."""
    choosing: dict[str, list[float]]
    """The same on the first, third, … pair, by which the layer is chosen."""
    directions: list[float]
    """Without gold: see `SelfAgreement`."""
    layers: list[float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(model: LoadedModel, layer: int, golds: Sequence[Gold], data_dir: Path, side_tokens: int) -> Measured:
    """Figures of every layer.

    Args:
        layer: that words align at, where there is no gold to choose it by.
        golds: manual alignments, the halves of which choose a layer and report on it.
        data_dir: token files, for agreement where there are none.
    """
    if not golds:
        assert isinstance(model.encoder, Encoder), "training takes no other architecture"
        found = self_agreement(model.encoder, data_dir, PAIRS, side_tokens)
        return Measured(layer, "the layer that was trained", {}, {}, found.directions, found.layers)
    names, chosen_on, reported_on = [], [], []
    for gold in golds:
        odd, even = evaluate_halves(model.encoder, model.tokenizer, gold, WAY)
        names.append(f"{gold.source_language}-{gold.target_language}")
        chosen_on.append([score.aer for score in odd])
        reported_on.append([score.aer for score in even])
    choosing, aer = columns_of(names, chosen_on), columns_of(names, reported_on)
    best = min(range(len(choosing["avg"])), key=choosing["avg"].__getitem__)
    why = f"the lowest mean AER on every other gold pair, {100 * choosing['avg'][best]:.1f} %, of {', '.join(names)}"
    return Measured(best, why, aer, choosing, [], [])


def options_of(measured: Measured, trained: AlignOptions) -> AlignOptions:
    """How words align with the model, to be recorded with it."""
    return replace(
        trained, layer=measured.layer, method=WAY.method, encoding=WAY.encoding, settings=None, why=measured.why
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
