"""Spans restore the text, are drawn evenly, in T5's number, and hold no special token."""

from collections import Counter
from itertools import pairwise, product
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.tokenizers.special_ids import BOS, EOS, UNK
from pipeline.data.counter_random import hash_key
from pipeline.data.streams import Sequences
from pipeline.data.views.spans import choose_spans, compositions
from pipeline.settings.added_words import AddedWords
from pipeline.settings.text_to_text_views import SpanOptions
from tests.pipeline.data.text_to_text_kit import (
    KNOWN,
    MASK,
    WORDS,
    Ids,
    assert_all_move,
    blocks,
    by_source,
    only,
    pairs,
    view_of,
)

OPTIONS = SpanOptions(0.5, 3.0, 3)
SPECIAL = {BOS, EOS, UNK, MASK}
a_sentence = st.lists(st.sampled_from([UNK, *range(4, 12)]), min_size=1, max_size=25)
some_options = st.builds(
    SpanOptions, st.sampled_from([0.05, 0.15, 0.5, 0.9]), st.sampled_from([1.0, 3.0, 20.0]), st.integers(1, 5)
)


def is_sentinel(id: int) -> bool:
    return KNOWN <= id < WORDS.first_tag


def spans_in(written: list[tuple[Ids, Ids]]) -> dict[int, Ids]:
    """What stands behind each sentinel in the targets of one source, whose labels are checked."""
    found: dict[int, Ids] = {}
    for read, labels in written:
        assert is_sentinel(read[0]) and labels[:-1] == read[1:], "a label is the next token"
        for id in read:
            if is_sentinel(id):
                found[id], last = [], id
            else:
                found[last].append(id)
    for (_, labels), (read, _) in pairwise(written):
        assert labels[-1] == read[0], "a group ends with the sentinel of the next"
    assert list(found) == list(range(KNOWN, KNOWN + len(found))), "sentinels rise by one"
    assert written[-1][1][-1] == KNOWN + len(found)
    return found


def check_conservation(sequences: Sequences, options: SpanOptions) -> None:
    """Splicing the spans into the sentinels' places restores every sequence."""
    for (source, written), whole in zip(by_source(view_of(sequences, "spans", options)), sequences.ids, strict=True):
        spans = spans_in(written)
        shown = [id for id in source if is_sentinel(id)]
        assert shown == [id for id, span in spans.items() if span], "only an empty span is not shown"
        assert [t for id in source for t in (spans[id] if is_sentinel(id) else [id])] == whole.tolist()
        assert not SPECIAL & {token for span in spans.values() for token in span}
        assert all(not (is_sentinel(one) and is_sentinel(next_)) for one, next_ in pairwise(source)), (
            "spans do not touch"
        )
        assert all(spans.values()) or list(spans.values()) == [[]]
        assert len(written) == min(options.groups, len(spans))
        sizes = [sum(map(is_sentinel, read)) for read, _ in written]
        assert max(sizes) - min(sizes) <= 1, "groups are as even as can be"


@given(texts=st.lists(st.lists(a_sentence, min_size=1, max_size=5), min_size=1, max_size=5), options=some_options)
@settings(max_examples=60, deadline=None)
def test_the_spans_in_their_sentinels_places_are_the_blocks(texts: list[list[Ids]], options: SpanOptions) -> None:
    check_conservation(blocks(texts), options)


@given(
    texts=st.lists(st.tuples(a_sentence, a_sentence), min_size=1, max_size=5),
    options=some_options,
    sides=st.sampled_from(["all", "one"]),
)
@settings(max_examples=60, deadline=None)
def test_the_spans_in_their_sentinels_places_are_the_pairs(
    texts: list[tuple[Ids, Ids]], options: SpanOptions, sides: Any
) -> None:
    check_conservation(pairs(texts), SpanOptions(options.density, options.span, options.groups, sides))


def test_a_source_and_its_targets_in_full() -> None:
    sequences = blocks([[[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]]])
    [(source, written)] = by_source(view_of(sequences, "spans", SpanOptions(0.5, 2.0, 2)))
    assert source == [BOS, 5, KNOWN, 9, 10, KNOWN + 1, EOS] or is_sentinel(source[-2]), "what is kept comes first"
    (one, one_labels), (other, other_labels) = written
    assert one[0] == KNOWN and one_labels == [*one[1:], other[0]]
    assert other_labels == [*other[1:], KNOWN + 2]
    [(_, [plain])] = by_source(view_of(sequences, "spans", SpanOptions(0.5, 2.0, 1)))
    assert plain == (one + other, [*one[1:], *other, KNOWN + 2]), "one group is plain span corruption of the same spans"


# How spans are drawn


def t5_counts(length: int, density: float, mean: float) -> tuple[int, int]:
    """Tokens in spans and spans, as `random_spans_noise_mask` has them; as many spans as there are tokens to part them."""
    hidden = min(max(int(np.round(length * density)), 1), length - 1)
    return hidden, min(max(int(np.round(hidden / mean)), 1), length - hidden)


@pytest.mark.parametrize("density", [0.01, 0.15, 0.5, 0.85])
@pytest.mark.parametrize("mean", [1.0, 2.5, 3.0, 10.0])
def test_as_many_tokens_are_hidden_in_as_many_spans_as_in_t5(density: float, mean: float) -> None:
    lengths_S = np.arange(1, 51)
    options = SpanOptions(density, mean, 1)
    start_M, length_M, spans_S = choose_spans(np.ones(lengths_S.sum(), bool), lengths_S, hash_key(lengths_S), options)
    owner_M = np.searchsorted(np.cumsum(lengths_S), start_M, side="right")
    for number, length in enumerate(lengths_S[1:].tolist(), 1):
        own = length_M[owner_M == number]
        assert (own.sum(), len(own)) == t5_counts(length, density, mean) == options.counts(length)
    assert spans_S[0] == 1 and not length_M[0], "nothing of a single token can be hidden and kept"


def test_all_compositions_are_equally_likely() -> None:
    """Ten tokens, half of them hidden in two spans: four ways to cut what is hidden, times four for what is kept."""
    times = 16 * 500
    start_M, length_M, _ = choose_spans(
        np.ones(10 * times, bool), np.full(times, 10), hash_key(7, np.arange(times)), SpanOptions(0.5, 3.0, 1)
    )
    begin_S2, length_S2 = start_M.reshape(-1, 2) - 10 * np.arange(times)[:, None], length_M.reshape(-1, 2)
    found = Counter(zip(begin_S2[:, 0].tolist(), length_S2[:, 0].tolist(), strict=True))
    assert set(found) == set(product(range(1, 5), range(1, 5)))
    assert (begin_S2.sum(1) + length_S2[:, 1] == 10 + begin_S2[:, 0]).all(), "the last span ends the text"
    assert (begin_S2[:, 1] > begin_S2[:, 0] + length_S2[:, 0]).all()
    assert all(abs(count - 500) < 4 * sqrt(500) for count in found.values())


@pytest.mark.parametrize(("total", "parts"), [(1, 1), (6, 1), (6, 3), (7, 4), (6, 6), (0, 1)])
def test_compositions_are_positive_and_sum_up(total: int, parts: int) -> None:
    ways = comb(total - 1, parts - 1) if total else 1
    times = 300 * ways
    found_MS = compositions(np.full(times, total), np.full(times, parts), hash_key(3, np.arange(times)))
    rows = found_MS.reshape(times, parts)
    assert (rows.sum(1) == total).all() and (rows > 0).all() == (total > 0)
    counts = Counter(map(tuple, rows.tolist()))
    assert len(counts) == ways and all(abs(count - 300) < 4.5 * sqrt(300) for count in counts.values())


def slow_spans(may_hide: list[bool], key: int, options: SpanOptions) -> list[tuple[int, int]]:
    """(start, length) of the spans of one sequence, by loops."""
    places = [place for place, may in enumerate(may_hide) if may]
    hidden, spans = options.counts(len(places))

    def parts(total: int, what: int) -> list[int]:
        by_draw = sorted(range(1, total), key=lambda place: int(hash_key(hash_key(key, what), place)))
        bounds = [0, *sorted(by_draw[: spans - 1]), total]
        return [end - begin for begin, end in pairwise(bounds)]

    found, at = [], 0
    for length, kept in zip(parts(hidden, 1), parts(len(places) - hidden, 2), strict=True):
        own, at = places[at + kept : at + kept + length], at + kept + length
        runs: list[list[int]] = [[]]
        for place in own:
            if runs[-1] and place != runs[-1][-1] + 1:
                runs.append([])
            runs[-1].append(place)
        longest = max(runs, key=len)  # the first of equals
        found.append((longest[0] if longest else 0, len(longest)))
    return found


@given(
    may_hide=st.lists(st.lists(st.booleans() | st.just(True), min_size=1, max_size=60), min_size=1, max_size=5),
    options=some_options,
)
@settings(max_examples=60, deadline=None)
def test_spans_are_their_slow_definition(may_hide: list[list[bool]], options: SpanOptions) -> None:
    key_S, lengths_S = hash_key(11, np.arange(len(may_hide))), np.array(list(map(len, may_hide)))
    start_M, length_M, spans_S = choose_spans(np.concatenate(may_hide), lengths_S, key_S, options)
    first_M = np.repeat(np.cumsum(lengths_S) - lengths_S, spans_S) * (length_M > 0)
    found = list(zip((start_M - first_M).tolist(), length_M.tolist(), strict=True))
    slow = [slow_spans(may, key, options) for may, key in zip(may_hide, key_S.tolist(), strict=True)]
    assert found == [span for spans in slow for span in spans] and spans_S.tolist() == list(map(len, slow))


def test_a_special_token_in_a_span_leaves_its_longer_part_hidden() -> None:
    """Where nothing lies between, spans are the same; where something does, each is a part of what it would be."""
    plain_T, parted_T = np.ones(40, bool), np.ones(50, bool)
    parted_T[4::5] = False
    key_S, options = hash_key(5, np.arange(1)), SpanOptions(0.5, 5.0, 1)
    (start_M, length_M, _), (cut_start_M, cut_length_M, _) = (
        choose_spans(may_T, np.array([len(may_T)]), key_S, options) for may_T in (plain_T, parted_T)
    )
    place_T = np.flatnonzero(parted_T)
    assert (cut_length_M < length_M).any() and len(length_M) == 4
    for start, length, cut_start, cut_length in zip(start_M, length_M, cut_start_M, cut_length_M, strict=True):
        places = place_T[start : start + length]
        runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        longest = max(runs, key=len)  # the first of equals
        assert (cut_start, cut_length) == (longest[0], len(longest))


def test_a_sample_s_spans_are_its_own_whatever_is_beside_it() -> None:
    draw = np.random.default_rng(0)
    texts = [[draw.integers(4, 60, n).tolist() for n in draw.integers(1, 30, 4)] for _ in range(6)]
    sequences = blocks(texts)
    whole = by_source(view_of(sequences, "spans", OPTIONS))
    for places in ([3], [5, 0, 2]):
        assert by_source(view_of(only(sequences, places), "spans", OPTIONS)) == [whole[place] for place in places]
    assert by_source(view_of(sequences, "spans", OPTIONS, seed=2)) != whole


# Pairs


@pytest.fixture
def some_pairs() -> Sequences:
    draw = np.random.default_rng(1)
    return pairs([(draw.integers(4, 30, n).tolist(), draw.integers(30, 60, m).tolist()) for n, m in [(9, 12)] * 40])


def sides(ids: Ids) -> tuple[Ids, Ids]:
    end = ids.index(EOS)
    return ids[1:end], ids[end + 1 : -1]


def test_with_one_side_the_other_is_untouched_and_either_may_be_it(some_pairs: Sequences) -> None:
    drawn = Counter()
    options = SpanOptions(0.5, 3.0, 3, "one")
    for (source, written), whole in zip(by_source(view_of(some_pairs, "spans", options)), some_pairs.ids, strict=True):
        same = [one == other for one, other in zip(sides(source), sides(whole.tolist()), strict=True)]
        drawn[tuple(same)] += 1
        assert sum(map(len, spans_in(written).values())) == options.counts(9 if same[1] else 12)[0]
    assert set(drawn) == {(True, False), (False, True)} and min(drawn.values()) > 8


def test_with_all_sides_both_have_spans_that_number_through(some_pairs: Sequences) -> None:
    both = 0
    for source, _ in by_source(view_of(some_pairs, "spans", OPTIONS)):
        first, second = ([id for id in side if is_sentinel(id)] for side in sides(source))
        both += bool(first) and bool(second)
        assert first + second == list(range(KNOWN, KNOWN + len(first) + len(second)))
    assert both > 30, "four spans may lie on one side by chance"


# Lengths and limits


@pytest.mark.parametrize("sides_", ["all", "one"])
@pytest.mark.parametrize("options", [(0.5, 3.0, 3), (0.15, 3.0, 1), (0.9, 1.0, 2), (0.3, 50.0, 4)])
def test_no_sequence_is_longer_and_none_has_more_spans_than_arithmetic_says(
    options: tuple[float, float, int], sides_: Any
) -> None:
    told, limit = SpanOptions(*options, sides_), 24
    draw = np.random.default_rng(2)
    texts = [(draw.integers(4, 60, n).tolist(), draw.integers(4, 60, m).tolist()) for n, m in [(24, 24), (24, 3)] * 30]
    view = view_of(pairs(texts), "spans", told)
    most = max(len(spans_in(written)) for _, written in by_source(view))
    assert most == told.most_spans("pairs", limit)
    assert view.source.longest <= told.longest("pairs", limit).source == 51
    assert view.target.longest <= told.longest("pairs", limit).target


def test_a_block_of_one_sentence_has_most_spans_and_the_longest_target_is_reached() -> None:
    sequences = blocks([[[5] * 10]] * 400)
    options = SpanOptions(0.5, 2.0, 2)
    view = view_of(sequences, "spans", options)
    assert max(len(spans_in(written)) for _, written in by_source(view)) == options.most_spans("mono", 12) == 2
    assert view.target.longest == options.longest("mono", 12).target == 5
    assert options.longest("mono", 12).source == 12
    assert OPTIONS.most_spans("mono", 512) == 85, "mT6's setting needs 86 of its 100 sentinels"


def test_too_few_sentinels_are_not_gone_beyond() -> None:
    sequences = blocks([[[5] * 10]])
    options = SpanOptions(0.5, 2.0, 2)
    assert options.counts(10)[1] == 2
    view_of(sequences, "spans", options, AddedWords(KNOWN, sentinels=3))
    with pytest.raises(AssertionError, match="more spans than there are sentinels"):
        view_of(sequences, "spans", options, AddedWords(KNOWN, sentinels=2))


def test_what_cannot_be_corrupted_stays_and_says_that_nothing_is_hidden() -> None:
    found = by_source(view_of(blocks([[[7]], [[UNK, UNK], [9]], [[7, 8]]]), "spans", OPTIONS))
    nothing = [([KNOWN], [KNOWN + 1])]
    assert found[0] == ([BOS, 7, EOS], nothing) and found[1] == ([BOS, UNK, UNK, EOS, 9, EOS], nothing)
    assert found[2] == ([BOS, 7, KNOWN, EOS], [([KNOWN, 8], [8, KNOWN + 1])])
    assert_all_move(view_of(blocks([[[7]], [[4] * 40]]), "spans", OPTIONS))
