"""Noise is what its slow definition says, and leaves special tokens and other sentences alone."""

from collections import Counter
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokenizers.special_ids import BOS, EOS, UNK
from pipeline.data.counter_random import hash_key, uniform
from pipeline.data.views.noise import add_noise
from pipeline.data.views.text_to_text import Texts
from pipeline.settings.text_to_text_views import NoiseOptions
from tests.pipeline.data.text_to_text_kit import (
    MASK,
    WORDS,
    Ids,
    assert_all_move,
    blocks,
    lists,
    only,
    targets_of,
    view_of,
)

OPTIONS = NoiseOptions(3, 0.1, 0.1, "target")
some_texts = st.lists(
    st.lists(st.lists(st.sampled_from([UNK, *range(4, 63)]), min_size=1, max_size=20), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def noisy(sentences: list[Ids], keys: list[int], options: NoiseOptions) -> list[Ids]:
    """`add_noise` of lists."""
    texts = Texts(np.array([id for sentence in sentences for id in sentence]), np.array(list(map(len, sentences))))
    found = add_noise(texts, np.array(keys, dtype=np.uint64), MASK, options)
    return [part.tolist() for part in np.split(found.ids_T, np.cumsum(found.length_R)[:-1])]


def slow_noise(sentence: Ids, key: int, options: NoiseOptions) -> Ids:
    """One sentence by a loop over its tokens."""
    draws = [[float(uniform(hash_key(key, place, what))) for what in (0, 1, 2)] for place in range(len(sentence))]
    order = sorted(range(len(sentence)), key=lambda place: place + options.shuffle * draws[place][0])
    kept = [place for place in order if draws[place][1] >= options.drop]
    kept = kept or [max(order, key=lambda place: draws[place][1])]
    return [MASK if draws[place][2] < options.blank else sentence[place] for place in kept]


@given(
    sentences=st.lists(st.lists(st.integers(3, 62), min_size=1, max_size=30), min_size=1, max_size=6),
    shuffle=st.sampled_from([0, 1, 3, 10]),
    drop=st.sampled_from([0.0, 0.1, 0.9, 0.999]),
    blank=st.sampled_from([0.0, 0.1, 0.9]),
)
@settings(max_examples=80, deadline=None)
def test_noise_is_its_slow_definition(sentences: list[Ids], shuffle: int, drop: float, blank: float) -> None:
    options = NoiseOptions(shuffle, drop, blank, "target")
    keys = hash_key(9, np.arange(len(sentences))).tolist()
    expected = [slow_noise(sentence, key, options) for sentence, key in zip(sentences, keys, strict=True)]
    assert noisy(sentences, keys, options) == expected
    assert all(expected), "at least one token stays"


@pytest.mark.parametrize("farthest", [0, 1, 2, 3, 5])
def test_shuffling_keeps_all_tokens_and_moves_none_too_far(farthest: int) -> None:
    sentences = [list(range(60))] * 200
    found = noisy(sentences, list(range(200)), NoiseOptions(farthest, 0, 0, "target"))
    moved = [np.abs(np.argsort(ids) - np.arange(60)).max() for ids in found]
    assert all(sorted(ids) == sentences[0] for ids in found)
    assert max(moved) <= farthest and (farthest < 2 or max(moved) >= farthest - 1)


def test_tokens_are_dropped_and_blanked_at_their_rates() -> None:
    """Of 40,000 tokens; what is left out shows no blank."""
    sentences = [list(range(100, 200))] * 400
    for drop, blank in ((0.1, 0.0), (0.0, 0.1), (0.3, 0.2)):
        found = noisy(sentences, list(range(1, 401)), NoiseOptions(3, drop, blank, "target"))
        left, blanks = sum(map(len, found)), sum(sentence.count(MASK) for sentence in found)
        assert abs(left - 40_000 * (1 - drop)) <= 3 * sqrt(40_000 * drop * (1 - drop))
        assert abs(blanks - left * blank) <= 3 * sqrt(left * blank * (1 - blank))


def test_which_token_stays_alone_is_drawn_evenly() -> None:
    found = noisy([[10, 11, 12, 13]] * 2000, list(range(2000)), NoiseOptions(0, 0.999, 0, "target"))
    alone = Counter(ids[0] for ids in found if len(ids) == 1)
    assert sum(alone.values()) > 1950 and all(abs(count - 500) < 4 * sqrt(500) for count in alone.values())


# The view


@given(texts=some_texts)
@settings(max_examples=40, deadline=None)
def test_every_sentence_is_a_source_and_is_written_as_it_was(texts: list[list[Ids]]) -> None:
    view = view_of(blocks(texts), "noise", NoiseOptions(3, 0.3, 0.3, "target"))
    sentences = [sentence for block in texts for sentence in block]
    tag = WORDS.tag("de")
    assert [target.labels for target in targets_of(view)] == [[*sentence, EOS] for sentence in sentences]
    assert [target.read for target in targets_of(view)] == [[tag, *sentence] for sentence in sentences]
    assert [target.owner for target in targets_of(view)] == list(range(len(sentences)))
    for source, sentence in zip(lists(view.source), sentences, strict=True):
        assert source[0] == BOS and source[-1] == EOS and len(source) > 2
        assert not Counter(source[1:-1]) - Counter({**Counter(sentence), MASK: len(sentence)})


def test_the_tag_is_of_the_sentence_s_language_and_stands_where_it_is_told_to() -> None:
    sequences = blocks([[[5, 6], [7]], [[8, 9]]], languages=[2, 1])
    tags = [WORDS.tag(name) for name in ("zh", "zh", "en")]
    quiet = {"shuffle": 0, "drop": 0.0, "blank": 0.0}
    target, source = (view_of(sequences, "noise", NoiseOptions(**quiet, tag=place)) for place in ("target", "source"))
    assert lists(target.source) == [[BOS, 5, 6, EOS], [BOS, 7, EOS], [BOS, 8, 9, EOS]]
    assert [read[0] for _, read, _ in targets_of(target)] == tags
    assert lists(source.source) == [[BOS, tags[0], 5, 6, EOS], [BOS, tags[1], 7, EOS], [BOS, tags[2], 8, 9, EOS]]
    assert [read[0] for _, read, _ in targets_of(source)] == [BOS] * 3
    assert [labels for *_, labels in targets_of(source)] == [labels for *_, labels in targets_of(target)]


def test_a_sentence_s_noise_is_its_own_whatever_is_beside_it() -> None:
    draw = np.random.default_rng(0)
    texts = [[draw.integers(4, 60, n).tolist() for n in draw.integers(1, 20, 3)] for _ in range(5)]
    sequences = blocks(texts)
    whole = lists(view_of(sequences, "noise", OPTIONS).source)
    part = lists(view_of(only(sequences, [4, 1]), "noise", OPTIONS).source)
    assert part == whole[12:15] + whole[3:6]
    assert lists(view_of(sequences, "noise", OPTIONS, seed=2).source) != whole
    same = lists(view_of(blocks([[[5] * 20, [5] * 20]]), "noise", NoiseOptions(3, 0.5, 0.5, "target")).source)
    assert same[0] != same[1], "sentences of a block draw apart"


@pytest.mark.parametrize("tag", ["source", "target"])
def test_no_sequence_is_longer_than_arithmetic_says(tag: str) -> None:
    options = NoiseOptions(3, 0.0, 0.1, tag)  # type: ignore[arg-type]
    view = view_of(blocks([[[5] * 10]]), "noise", options)
    assert (view.source.longest, view.target.longest) == options.longest("mono", 12)
    assert_all_move(view_of(blocks([[[5] * 10, [6] * 50]]), "noise", options))
