"""What words are aligned with: the user's choice, else the model's record, else what suits a plain checkpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.settings.align_options import (
    AlignOptions,
    Chosen,
    Labelling,
    Way,
    chosen_over,
    note,
    options_of_json,
    plain_options,
    resolve,
    trained_options,
)
from sinkhorn_align import AlignmentSettings

EXP = AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1)
RECORDED = AlignOptions(8, "ot-filter", "joint", "recorded", EXP)


def settings_of(options: AlignOptions) -> tuple[int, str, str, AlignmentSettings | None]:
    return options.layer, options.method, options.encoding, options.settings


@pytest.mark.parametrize(("layers", "layer"), [(12, 7), (24, 14), (6, 4), (3, 2), (1, 1)])
def test_a_plain_checkpoint_is_aligned_by_argmax_a_little_above_its_middle(layers: int, layer: int) -> None:
    assert settings_of(plain_options(layers)) == (layer, "argmax", "separate", None) == settings_of(resolve(layers))


CHOICES: dict[str, tuple[AlignOptions | None, dict[str, Any], tuple[Any, ...]]] = {
    "nothing, plain": (None, {}, (7, "argmax", "separate", None)),
    "nothing, recorded": (RECORDED, {}, (8, "ot-filter", "joint", EXP)),
    "layer": (RECORDED, {"layer": 3}, (3, "ot-filter", "joint", EXP)),
    "embeddings": (RECORDED, {"layer": 0}, (0, "ot-filter", "joint", EXP)),
    "a method brings its encoding": (None, {"method": "ot"}, (7, "ot", "joint", None)),
    "and the other way round": (RECORDED, {"method": "argmax"}, (8, "argmax", "separate", None)),
    "the recorded method": (RECORDED, {"method": "ot-filter"}, (8, "ot-filter", "joint", EXP)),
    "encoding": (RECORDED, {"encoding": "separate"}, (8, "ot-filter", "separate", EXP)),
    "method and encoding": (None, {"method": "argmax", "encoding": "joint"}, (7, "argmax", "joint", None)),
    "a cost brings its method": (None, {"settings": EXP}, (7, "ot-filter", "joint", EXP)),
    "a cost goes before the record's": (
        RECORDED,
        {"settings": AlignmentSettings()},
        (8, "ot-filter", "joint", AlignmentSettings()),
    ),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_goes_before_the_record_and_the_record_before_the_default(choice: str) -> None:
    recorded, given, expected = CHOICES[choice]
    assert settings_of(resolve(12, recorded, Chosen(**given))) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": 13}, "--layer 13: the model has 12 layers; choose 0"),
        ({"layer": -1}, "--layer -1"),
        ({"method": "best"}, "--method 'best': choose ot-filter, ot, argmax"),
        ({"encoding": "x"}, "--encoding 'x': choose joint or separate"),
    ],
)
def test_a_choice_that_the_model_has_not_is_an_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(12, chosen=Chosen(**given))


def test_a_record_that_the_model_has_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="recorded with the model, 13: the model has 12 layers"):
        resolve(12, AlignOptions(13, "ot", "joint", ""))


def test_the_note_says_what_was_taken_why_and_how_to_choose() -> None:
    told = note(resolve(12, RECORDED, Chosen(layer=3)))
    assert "layer 3, ot-filter, joint, cost exp" in told and "layer as given; recorded" in told
    assert "--layer, --method, --encoding" in told and "evaluate --gold DIR --record" in told and "\n" not in told
    assert "default for a model without a record" in note(resolve(12))


@pytest.mark.parametrize("options", [RECORDED, plain_options(12), AlignOptions(0, "ot", "separate", "because")])
def test_a_record_is_read_as_it_was_written(options: AlignOptions) -> None:
    assert options_of_json(json.loads(json.dumps(options.as_json())) | {"step": 1}, "config.json") == options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": "8"}, r"config\.json: xlm_align\.layer is '8'; record it anew"),
        ({"layer": True}, "layer is True"),
        ({"layer": -1}, "layer is -1"),
        ({"method": "best"}, "method is 'best'"),
        ({"encoding": None}, "encoding is None"),
        ({"settings": {"cost": "x"}}, "settings: alignment settings: cost is 'x'"),
        ({"settings": {"price": 1}}, "settings: .*price"),
    ],
)
def test_a_damaged_record_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options_of_json(RECORDED.as_json() | changes, "config.json: xlm_align")
    with pytest.raises(ValueError, match="is no object"):
        options_of_json(["layer", 8], "config.json: xlm_align")


def by_dwa(layer: int, settings: AlignmentSettings | None = None) -> Labelling:
    return Labelling(layer, Way(settings=settings or AlignmentSettings()))


def test_a_model_trained_to_align_is_aligned_as_it_was_trained() -> None:
    assert settings_of(trained_options(12, by_dwa(10))) == (10, "ot-filter", "joint", None)
    assert settings_of(trained_options(12, by_dwa(10, EXP))) == (10, "ot-filter", "joint", EXP)
    measured = trained_options(
        12, by_dwa(10, EXP), (9, "the lowest mean AER, 2.7 %, of the validation at step 5 (de-en)")
    )
    assert settings_of(measured) == (9, "ot-filter", "joint", EXP) and "validation at step 5" in measured.why
    unfiltered = trained_options(12, by_dwa(10, AlignmentSettings(filter_rounds=0))).settings
    assert unfiltered is None, "without filtering there would be no links"
    contrasted = trained_options(12, Labelling(7, Way("argmax", "separate")))
    assert settings_of(contrasted) == (7, "argmax", "separate", None) and contrasted.why.endswith("of its training")


def test_a_model_trained_without_alignment_is_aligned_as_a_plain_one() -> None:
    assert settings_of(trained_options(12, None)) == (7, "argmax", "separate", None)
    assert settings_of(trained_options(12, None, (6, "the lowest AER")))[:2] == (6, "argmax")


def test_what_a_config_chooses_goes_before_what_training_suggests() -> None:
    found = trained_options(12, by_dwa(7, EXP), (6, "the lowest AER"))
    assert chosen_over(found, None, None, None) == found
    assert settings_of(chosen_over(found, None, "argmax", None)) == (6, "argmax", "separate", None)
    assert settings_of(chosen_over(found, 9, "ot-filter", "separate")) == (9, "ot-filter", "separate", EXP)
    assert settings_of(chosen_over(found, None, "argmax", "joint")) == (6, "argmax", "joint", None)
