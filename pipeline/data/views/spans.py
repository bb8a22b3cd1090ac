"""The view "spans": texts with spans behind sentinels, and the spans to write (T5's span corruption; mT6 for its groups).

Knows a stream's sequences; nothing of objectives, nor of a decoder.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pipeline.data.assembly import order_within, ragged_indices
from pipeline.data.batch import StreamBatch
from pipeline.data.counter_random import SPANS, hash_key
from pipeline.data.streams import Sequences
from pipeline.data.views.masking import FIRST_ORDINARY_ID
from pipeline.data.views.text_to_text import Texts, TextToText
from pipeline.settings.added_words import AddedWords
from pipeline.settings.text_to_text_views import SpanOptions

_OF_SIDE, _OF_HIDDEN, _OF_KEPT = 0, 1, 2
"""What a sequence's key is mixed with for each of its draws."""


class Spans(TextToText):
    """The samples of a stream, every span behind a sentinel; the targets have the spans, each after its sentinel.

    Spans number from 0 on in every sequence, through both sides of a pair. What is to be written of a sequence is
    `[0] span [1] span … [m]`. It is cut before a sentinel into at most `groups` targets of consecutive spans, as many spans in
    each as evenly can be; a target begins with its first sentinel, and the label of its last token is the next target's.

    Tokens are hidden as in T5 (`random_spans_noise_mask`): how many, and in how many spans, says `SpanOptions.counts`; how long
    spans are, and what is kept between them, is drawn evenly, and what is kept comes first. Special tokens do not count and are
    never hidden: where one lies in a span, the longest part that it leaves stays the span, the first of equals. So there are
    never more spans than that, and fewer tokens in them: 47 % in place of 50 % in blocks of sentences of 20 tokens. A sequence
    of fewer than 2 ordinary tokens stays as it is; its target says that span 0 is empty.
    """

    name: ClassVar[str] = "spans"
    counter: ClassVar[int] = SPANS

    @classmethod
    def make(
        cls, stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: SpanOptions
    ) -> Spans:
        may_hide_T = _may_hide(sequences, key_S, words, options)
        start_M, length_M, spans_S = choose_spans(may_hide_T, sequences.lengths_S, key_S, options)
        number_M = ragged_indices(np.zeros_like(spans_S), spans_S)
        assert spans_S.max() < words.sentinels, "a sequence has more spans than there are sentinels"
        sentinel_M = words.known + number_M

        ids_T, stays_T = sequences.ids_T.copy(), np.ones(len(may_hide_T), dtype=bool)
        ids_T[start_M[length_M > 0]] = sentinel_M[length_M > 0]
        stays_T[ragged_indices(start_M + 1, np.maximum(length_M - 1, 0))] = False
        source = Texts(ids_T[stays_T], _sums(stays_T, sequences.lengths_S))

        hidden = Texts(sequences.ids_T[ragged_indices(start_M, length_M)], length_M)
        written = hidden.framed([sentinel_M], [])
        label_T = np.append(written.ids_T[1:], 0)
        label_T[np.cumsum(_sums(written.length_R, spans_S)) - 1] = words.known + spans_S

        groups_S = np.minimum(options.groups, spans_S)
        group_M = number_M * np.repeat(groups_S, spans_S) // np.repeat(spans_S, spans_S)
        starts_M = (number_M == 0) | (np.diff(group_M, prepend=0) != 0)
        length_R = np.add.reduceat(written.length_R, np.flatnonzero(starts_M))
        return cls.of(source, Texts(written.ids_T, length_R), label_T, np.repeat(np.arange(len(groups_S)), groups_S))


def choose_spans(
    may_hide_T: np.ndarray, lengths_S: np.ndarray, key_S: np.ndarray, options: SpanOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(start_M int64 into T, length_M int64, spans_S int64) of the spans of S sequences, in order.

    may_hide_T: bool, whether a token may lie in a span. No two spans touch, and none is empty but the one of a sequence that
    has fewer than 2 such tokens.
    """
    tokens_S = _sums(may_hide_T, lengths_S)
    lengths, which_S = np.unique(tokens_S, return_inverse=True)
    hidden_S, spans_S = np.array([options.counts(length) for length in lengths.tolist()])[which_S].T
    length_M = compositions(hidden_S, spans_S, hash_key(key_S, _OF_HIDDEN))
    kept_M = compositions(tokens_S - hidden_S, spans_S, hash_key(key_S, _OF_KEPT))
    start_M = np.cumsum(kept_M + length_M) - length_M  # of the tokens that may be hidden, of all sequences
    return *_unbroken(np.flatnonzero(may_hide_T), start_M, length_M), spans_S


def compositions(total_S: np.ndarray, parts_S: np.ndarray, key_S: np.ndarray) -> np.ndarray:
    """int64 [sum of parts_S], one after the other: each total as a sum of so many parts, by a key (uint64) of its own.

    All sums of positive parts are equally likely. There is at least one part, and not more of them than the total; only 0 as a
    sum of one part has an empty one.
    """
    places_S = np.maximum(total_S - 1, 0)  # between two items
    owner_P = np.repeat(np.arange(len(places_S)), places_S)
    place_P = ragged_indices(np.ones_like(places_S), places_S)
    by_draw_P = order_within(owner_P, hash_key(key_S[owner_P], place_P) >> np.uint64(24))
    cut_P = np.zeros(len(place_P), dtype=bool)
    cut_P[by_draw_P[place_P <= (parts_S - 1)[owner_P]]] = True
    last_S = np.cumsum(parts_S - 1)
    end_M = np.insert(place_P[cut_P], last_S, total_S)
    begin_M = np.insert(place_P[cut_P], last_S - (parts_S - 1), 0)
    return end_M - begin_M


def _may_hide(sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: SpanOptions) -> np.ndarray:
    """bool [T]: ordinary tokens, where `options.sides` is "one" of a side that is drawn."""
    ordinary_T = (sequences.ids_T >= FIRST_ORDINARY_ID) & (sequences.ids_T < words.known - 1)
    if options.sides == "all":
        return ordinary_T
    assert sequences.side_lengths_S2 is not None, "blocks have no sides"
    place_T = ragged_indices(np.zeros_like(sequences.lengths_S), sequences.lengths_S)
    second_T = place_T > np.repeat(sequences.side_lengths_S2[:, 0], sequences.lengths_S)
    drawn_S = (hash_key(key_S, _OF_SIDE) >> np.uint64(63)).astype(bool)
    return ordinary_T & (second_T == np.repeat(drawn_S, sequences.lengths_S))


def _unbroken(place_N: np.ndarray, start_M: np.ndarray, length_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(start_M, length_M) in T of the longest part of each span that lies in one piece there.

    place_N: rising indices into T; start_M, length_M: spans of them.
    """
    place_H = place_N[ragged_indices(start_M, length_M)]
    span_H = np.repeat(np.arange(len(length_M)), length_M)
    begin_P = np.flatnonzero((np.diff(place_H, prepend=-2) != 1) | (np.diff(span_H, prepend=-1) != 0))
    length_P, span_P = np.diff(begin_P, append=len(place_H)), span_H[begin_P]
    longest_first_P = order_within(span_P, len(place_H) - length_P)
    chosen_P = longest_first_P[np.diff(span_P, prepend=-1) != 0]
    start_M, length_M = np.zeros_like(start_M), np.zeros_like(length_M)
    start_M[span_P[chosen_P]], length_M[span_P[chosen_P]] = place_H[begin_P[chosen_P]], length_P[chosen_P]
    return start_M, length_M


def _sums(values: np.ndarray, length_S: np.ndarray) -> np.ndarray:
    """int64 [S]: the sums of so many values each, one after the other; no length is 0."""
    return np.add.reduceat(values, np.cumsum(length_S) - length_S, dtype=np.int64)
