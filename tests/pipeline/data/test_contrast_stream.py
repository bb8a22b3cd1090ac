"""Samples of sentence contrast: what two mixed pairs become, that a sample depends on its place alone, and both views of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import View
from pipeline.data.streams import BatchPlan, ContrastStream, Stream, open_streams
from pipeline.data.training_data import TrainingData
from pipeline.data.views.apart import Apart, ApartMasked

BOS, EOS = 0, 2
LANGUAGES = {"de-en": 7, "en-fr": 4, "en-th": 1}
"""How many pairs each has. Pair p of language l is the sentences [10 + 10·l + p] · 1 and that · 2: twice as long."""


def source(language: int, pair: int) -> int:
    return 10 + 10 * language + pair


@pytest.fixture
def manifest(make_manifest: Callable[..., Manifest]) -> Manifest:
    return make_manifest(
        pairs={
            name: [[([source(number, p)], [source(number, p)] * 2) for p in range(count)]]
            for number, (name, count) in enumerate(LANGUAGES.items())
        }
    )


def opened(manifest: Manifest, mixing: str, seed: int = 1) -> Stream:
    found = open_streams(manifest, ["contrast"], alpha=1.0, seed=seed, limits={"contrast": 30}, mixing=mixing)
    return found["contrast"]


def sides(stream: Stream, count: int) -> list[tuple[list[list[int]], list[list[int]]]]:
    """Of each of the first samples the sentences of both its sides."""
    samples = stream.samples(np.arange(count))
    lengths_S2 = samples.side_lengths_S2
    assert lengths_S2 is not None
    found = []
    for ids, (first, second) in zip(samples.ids, lengths_S2.tolist(), strict=True):
        assert ids[0] == BOS and ids[first + 1] == EOS and ids[-1] == EOS and len(ids) == first + second + 3
        of_sides = ids[1 : first + 1], ids[first + 2 : -1]
        found.append(tuple([part.tolist() for part in split(side)] for side in of_sides))
    return found


def split(side: np.ndarray) -> list[np.ndarray]:
    at = np.flatnonzero(side == EOS)
    assert len(at) <= 1
    return [side] if not len(at) else [side[: at[0]], side[at[0] + 1 :]]


def test_without_mixing_a_sample_is_a_pair_turned_round_or_not(manifest: Manifest) -> None:
    found = sides(opened(manifest, "none"), 400)
    assert {(len(first), len(second)) for first, second in found} == {(1, 1)}
    turned = Counter(len(first[0]) for first, _ in found)
    assert abs(turned[1] - 200) < 50 and turned[1] + turned[2] == 400
    assert all(set(first[0]) == set(second[0]) for first, second in found)


def test_as_released_neighbours_of_one_language_are_mixed_in_eight_ways(manifest: Manifest) -> None:
    ways: Counter[tuple[bool, bool, bool]] = Counter()
    for first, second in sides(opened(manifest, "released"), 2000):
        words = [side[0] for side in first]
        assert {side[0] for side in second} == set(words), "both sides hold the same two pairs"
        assert len({len(side) for side in first}) == len({len(side) for side in second}) == 1, "one language a side"
        language, pairs = (words[0] - 10) // 10, sorted((word - 10) % 10 for word in words)
        count = list(LANGUAGES.values())[language]
        if count == 1:
            assert pairs == [0, 0]
            continue
        low, high = pairs
        assert (low % 2 == 0 and high == low + 1) or (high == count - 1 and low == high - 1)
        if count % 2 == 0 or high < count - 1:  # else the odd one out is always the one that was drawn
            ways[first[0][0] < first[1][0], second[0][0] < second[1][0], len(first[0]) == 1] += 1
    assert len(ways) == 8 and min(ways.values()) > 0.6 * max(ways.values())


def test_as_published_pairs_of_two_corpora_are_mixed_and_a_side_may_hold_two_languages(manifest: Manifest) -> None:
    ways: Counter[tuple[bool, bool]] = Counter()
    partners: Counter[int] = Counter()
    for first, second in sides(opened(manifest, "paper"), 2000):
        words = [side[0] for side in first]
        assert {side[0] for side in second} == set(words)
        of_languages = {(word - 10) // 10 for word in words}
        assert len(of_languages) == 2, "of two corpora"
        partners.update(of_languages)
        ways[len(first[0]) == len(first[1]), [side[0] for side in second] == words] += 1
    assert set(partners) == {0, 1, 2}
    assert len(ways) == 4 and min(ways.values()) > 0.8 * max(ways.values())


def test_a_single_corpus_is_mixed_with_itself(make_manifest: Callable[..., Manifest]) -> None:
    only = make_manifest(pairs={"de-en": [[([p], [p, p]) for p in range(10, 15)]]})
    mixed = {frozenset(side[0] for side in first) for first, _ in sides(opened(only, "paper"), 400)}
    assert len(mixed) == 5 + 10


@pytest.mark.parametrize("mixing", ["none", "released", "paper"])
def test_a_sample_depends_on_its_place_alone_and_not_on_what_pairs_draws(manifest: Manifest, mixing: str) -> None:
    stream = opened(manifest, mixing)
    assert isinstance(stream, ContrastStream)
    whole, part, other = (stream.samples(np.arange(*bounds)) for bounds in ((0, 64), (20, 30), (64, 128)))
    assert [a.tolist() for a in part.ids] == [a.tolist() for a in whole.ids[20:30]]
    assert [a.tolist() for a in other.ids] != [a.tolist() for a in whole.ids]
    pairs = open_streams(manifest, ["pairs"], alpha=1.0, seed=1, limits={"pairs": 30})["pairs"]
    assert not np.intersect1d(pairs.samples(np.arange(64)).key_S, whole.key_S).size
    again = opened(manifest, mixing, seed=2).samples(np.arange(64))
    assert [a.tolist() for a in again.ids] != [a.tolist() for a in whole.ids]


@pytest.mark.parametrize("mixing", ["none", "released"])
def test_the_views_hold_the_sides_as_sequences_of_their_own(manifest: Manifest, mixing: str) -> None:
    views = [View("contrast", kind.name) for kind in (Apart, ApartMasked)]
    data = TrainingData(manifest, views, alpha=1.0, seed=1, limits={"contrast": 30}, mixing=mixing)
    plan = BatchPlan({"contrast": 96}, 1, 1)
    batch = data.micro_batch(plan, 0, 0, 0)["contrast"]
    clean, masked = batch.view(Apart), next(v for v in batch.views.values() if isinstance(v, ApartMasked))
    assert type(clean) is Apart
    expected = sides(data.streams["contrast"], 96)
    changed = 0
    for side in (0, 1):
        packed, other = clean.sides[side], masked.sides[side]
        assert packed.offsets_S1.tolist() == other.offsets_S1.tolist()
        for (start, end), of_sample in zip(pairwise(packed.offsets_S1.tolist()), expected, strict=True):
            whole = [BOS, *(id for sentence in of_sample[side] for id in (*sentence, EOS))]
            assert packed.ids_T[start:end].tolist() == whole
            changed += sum(a != b for a, b in zip(whole, other.ids_T[start:end].tolist(), strict=True))
            assert other.ids_T[start] == BOS and other.ids_T[end - 1] == EOS
    tokens = sum(packed.tokens for packed in clean.sides) - 4 * 96
    assert 0.08 < changed / tokens < 0.2
    assert clean.text_B2.equal(masked.text_B2), "texts are told by what they are without masks"
    texts = {}
    for of_sample, hashes in zip(expected, clean.text_B2.tolist(), strict=True):
        for side, text in zip(of_sample, hashes, strict=True):
            assert texts.setdefault(str(side), text) == text
    assert len(set(texts.values())) == len(texts)


def test_data_without_pairs_is_refused_in_one_line(make_manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(
        ValueError, match=r"^[^\n]*holds no pairs data, which an objective .* `python -m data_prep parallel`"
    ):
        opened(make_manifest(mono={"en": [[[5, 6, 7]]]}), "none")


def test_a_damaged_partner_s_file_is_named(manifest: Manifest) -> None:
    stream = opened(manifest, "paper")
    stream.vocab_size = 30
    with pytest.raises(ValueError, match=r"\.bin: ids from .* allowed are"):
        stream.samples(np.arange(8))
