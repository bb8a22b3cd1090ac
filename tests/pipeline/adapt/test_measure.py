"""The layer is chosen on one half of the gold pairs and reported on the other; without gold it stays as it was trained."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from pipeline.adapt.adapt import as_plain
from pipeline.adapt.measure import WAYS, Measured, measure, options_of, rows
from pipeline.evaluate.alignment_error import evaluate
from pipeline.evaluate.gold import Gold, read_gold
from pipeline.settings.align_options import plain_options
from pipeline.weights.loading import LoadedModel, load


@pytest.fixture
def model(hf_dir: Path) -> LoadedModel:
    return load(hf_dir)


@pytest.fixture
def gold(gold_dir: Path) -> Gold:
    return read_gold(gold_dir)


def test_gold_chooses_on_the_odd_pairs_and_reports_on_the_even_ones(model: LoadedModel, gold: Gold) -> None:
    found = measure(model, 1, [gold, gold], Path("nowhere"), 62)
    halves = [gold.part(slice(at, None, 2)) for at in (0, 1)]
    chosen_on, reported_on = (
        {
            way.method: [score.aer for score in evaluate(model.encoder, model.tokenizer, half, way).layers]
            for way in WAYS
        }
        for half in halves
    )
    assert found.choosing == {method: pytest.approx(by_layer) for method, by_layer in chosen_on.items()}
    assert found.aer["avg"] == pytest.approx(reported_on[found.method])
    assert set(found.aer) == {"en-de", "en-de (2)", "avg"}
    lowest = min(min(by_layer) for by_layer in chosen_on.values())
    assert chosen_on[found.method][found.layer] == lowest
    options = options_of(found, plain_options(3))
    assert (options.layer, options.method, options.encoding) == (found.layer, found.method, "separate")
    assert "every other gold pair" in options.why


def test_figures_of_other_gold_are_not_taken(gold: Gold) -> None:
    same, other = copy.deepcopy(gold), copy.deepcopy(gold)
    other.sure[0].pop()
    assert as_plain(same) == as_plain(gold) != as_plain(other)


def measured(layer: int, aer: dict[str, list[float]] | None = None) -> Measured:
    return Measured(layer, "argmax", "why", aer or {}, {}, [0.5, 0.25], [0.75, 0.125])


def test_the_table_has_each_model_at_its_own_layer() -> None:
    before, after = (measured(layer, {"en-de": [0.3, 0.2], "avg": [0.3, 0.2]}) for layer in (0, 1))
    assert rows(before, after) == [("AER en-de, %", 30.0, 20.0)]
    two = {"en-de": [0.3, 0.2], "en-fr": [0.5, 0.4], "avg": [0.4, 0.3]}
    assert rows(measured(0, two), measured(1, two))[-1] == ("AER, mean, %", 40.0, 30.0)
    assert rows(measured(0), measured(1)) == [
        ("the two directions agree, %", 50.0, 25.0),
        ("neighbouring layers agree, %", 75.0, 12.5),
    ]
