"""One side is read and the other written, in the language whose tag is there once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.special_ids import BOS, EOS
from pipeline.data.batch import View
from pipeline.data.directions import check_directions
from pipeline.data.streams import BatchPlan
from pipeline.data.training_data import TrainingData
from pipeline.data.views.text_to_text import TextToText
from pipeline.settings.added_words import AddedWords
from pipeline.settings.text_to_text_views import TranslationOptions
from tests.pipeline.data.text_to_text_kit import KNOWN, WORDS, assert_all_move, by_source, lists, only, pairs, view_of

SIDES = [([5, 6, 7], [40, 41]), ([8], [42, 43, 44, 45]), ([9, 10], [46])]
PLACES = ["source", "target"]


@pytest.mark.parametrize("place", PLACES)
def test_the_tag_is_there_once_and_of_the_side_that_is_written(place: Any) -> None:
    """The pairs are de-en, zh-en and de-en; of the last two the English side comes first."""
    view = view_of(pairs(SIDES, swapped=[False, True, True]), "translation", TranslationOptions(place))
    tags = [WORDS.tag(name) for name in ("en", "zh", "de")]
    expected = [
        ([BOS, tag, *read, EOS] if place == "source" else [BOS, *read, EOS])
        for (read, _), tag in zip(SIDES, tags, strict=True)
    ]
    assert lists(view.source) == expected
    begins = [BOS] * 3 if place == "source" else tags
    assert [written for _, written in by_source(view)] == [
        [([begin, *write], [*write, EOS])] for (_, write), begin in zip(SIDES, begins, strict=True)
    ]
    assert_all_move(view)


def test_a_language_without_a_tag_is_named() -> None:
    with pytest.raises(ValueError, match="no tag of a language zh; choose of de, en"):
        view_of(pairs(SIDES), "translation", TranslationOptions("target"), AddedWords(KNOWN, 0, ("de", "en")))


def test_a_pair_is_translated_alike_whatever_is_beside_it() -> None:
    sequences = pairs(SIDES, swapped=[False, True, False])
    whole = by_source(view_of(sequences, "translation", TranslationOptions("target")))
    part = by_source(view_of(only(sequences, [2, 1]), "translation", TranslationOptions("target")))
    assert part == [whole[2], whole[1]]


@pytest.mark.parametrize("place", PLACES)
def test_no_sequence_is_longer_than_arithmetic_says(place: Any) -> None:
    options = TranslationOptions(place)
    view = view_of(pairs([([5] * 7, [6] * 7), ([5], [])]), "translation", options)
    assert (view.source.longest, view.target.longest) == options.longest("pairs", 7)
    assert [written for _, written in by_source(view)][1] == [([BOS if place == "source" else WORDS.tag("en")], [EOS])]


def test_the_stream_s_swaps_give_both_directions(make_manifest: Callable[..., Manifest]) -> None:
    """Words below 30 are German: the language that a target's tag names is that of its words, in training and validation."""
    draw = np.random.default_rng(0)
    shard = [
        (draw.integers(4, 30, draw.integers(1, 9)).tolist(), draw.integers(30, 60, draw.integers(1, 9)).tolist())
        for _ in range(40)
    ]
    manifest = make_manifest(pairs={"de-en": [shard]})
    views = [View("pairs", "translation", TranslationOptions(place)) for place in ("target", "source")]
    words = AddedWords(64, 5, ("de", "en"))
    data = TrainingData(manifest, views, alpha=1.0, seed=1, limits={"pairs": 10}, words=words)
    batch = data.micro_batch(BatchPlan({"pairs": 40}, 1, 1), 0, 0, 0)
    assert all(view in batch for view in views) and View("pairs", "translation") not in batch
    for found in (batch, data.head("pairs", 0, np.arange(40))):
        directions = set()
        target, source = (found.of(view) for view in views)
        assert isinstance(target, TextToText) and isinstance(source, TextToText)
        for (read, [(written, _)]), (tagged, _) in zip(by_source(target), by_source(source), strict=True):
            german = written[0] == words.tag("de")
            assert all((id < 30) == german for id in written[1:]) and all((id < 30) != german for id in read[1:-1])
            assert tagged[1] == written[0], "both views go the same way"
            directions.add(german)
        assert directions == {True, False}


def test_only_directions_that_are_named_are_trained(make_manifest: Callable[..., Manifest]) -> None:
    """German words are below 30, English below 60. Of de-en one way is trained, of zh-en both."""
    draw = np.random.default_rng(0)

    def shard(low: int, high: int) -> list[tuple[list[int], list[int]]]:
        sides = ((low, low + 15), (high, high + 15))
        return [tuple(draw.integers(*side, draw.integers(1, 9)).tolist() for side in sides) for _ in range(20)]  # type: ignore[misc]

    pairs_of = {"de-en": [shard(4, 30)], "en-zh": [shard(30, 45)]}
    manifest = make_manifest(pairs=pairs_of)
    views = [View("pairs", "translation", TranslationOptions("target", ("en-de", "en-zh", "zh-en")))]
    words = AddedWords(64, 5, ("de", "en", "zh"))

    def read_alike(views: list[View]) -> list[tuple[str, Any, Any]]:
        """(direction, what is read, what is written) of every pair of a batch."""
        data = TrainingData(manifest, views, alpha=1.0, seed=1, limits={"pairs": 10}, words=words)
        found = data.micro_batch(BatchPlan({"pairs": 40}, 1, 1), 0, 0, 0).of(views[0])
        assert isinstance(found, TextToText)
        told = []
        for read, [(written, labels)] in by_source(found):
            language = words.languages[written[0] - words.first_tag]
            source = "en" if language != "en" else "de" if read[1] < 30 else "zh"
            told.append((f"{source}-{language}", read[1:-1], labels[:-1]))
        return told

    both, named = read_alike([View("pairs", "translation", TranslationOptions("target"))]), read_alike(views)
    assert {direction for direction, *_ in both} == {"de-en", "en-de", "zh-en", "en-zh"}
    assert {direction for direction, *_ in named} == {"en-de", "zh-en", "en-zh"}
    turned = {"de-en": "en-de"}
    assert named == [(turned[way], out, into) if way in turned else (way, into, out) for way, into, out in both]


def test_a_pair_of_which_no_direction_is_trained_goes_as_it_was_drawn() -> None:
    """Validation reads such pairs, training does not."""
    sequences = pairs(SIDES, swapped=[False, True, True])
    as_drawn = view_of(sequences, "translation", TranslationOptions("target"))
    others = view_of(sequences, "translation", TranslationOptions("target", ("de-en",)))
    assert by_source(others)[:2] == by_source(as_drawn)[:2]
    assert by_source(others)[2] != by_source(as_drawn)[2], "the only one of de-en that was drawn the other way"


@pytest.mark.parametrize(
    ("directions", "told"),
    [
        (["en-fr"], "directions = en-fr: no pairs of en-fr are read from data; de-en, en-zh are"),
        (["en-de"], "directions = en-de: data has pairs en-zh and neither of their directions is named; add one"),
    ],
)
def test_directions_without_pairs_and_pairs_without_directions_are_named(directions: list[str], told: str) -> None:
    drawn = {"de-en": ("de", "en"), "en-zh": ("en", "zh")}
    check_directions(["de-en", "zh-en"], drawn, Path("data"))
    with pytest.raises(ValueError, match=told):
        check_directions(directions, drawn, Path("data"))
