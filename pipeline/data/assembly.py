"""Tokens of many samples put together with their special tokens, as one flat run of ids without a loop over tokens.

Knows ids and lengths only: nothing of files, languages or masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from data_prep.tokenizers.special_ids import BOS, EOS

FIRST_POSITION = 2  # of a sequence's first token; XLM-R counts from the padding's id on


@dataclass
class Pieces:
    """What S samples are made of, before special tokens: C chunks, each of which will get an end of its own.

    A chunk is a sentence (or a part of one) of a block, or a side of a pair.
    """

    views_S: Sequence[tuple[np.ndarray, ...]]  # int32 parts of token files; a sample's tokens, in order
    chunks_S: np.ndarray  # int64 number of chunks of each sample
    length_C: np.ndarray  # int64 tokens of each chunk

    @staticmethod
    def put_together(parts: Iterable[tuple[np.ndarray, Pieces]], count: int) -> Pieces:
        """`count` samples from parts that each say at which places their samples stand."""
        views_S: list[tuple[np.ndarray, ...]] = [()] * count
        places, pieces = [], []
        for place_S, part in parts:
            for place, views in zip(place_S.tolist(), part.views_S, strict=True):
                views_S[place] = views
            places.append(place_S)
            pieces.append(part)
        order = np.argsort(np.concatenate(places))
        chunks_S = np.concatenate([part.chunks_S for part in pieces])
        length_C = np.concatenate([part.length_C for part in pieces])
        return Pieces(views_S, chunks_S[order], length_C[ragged_indices(_starts(chunks_S)[order], chunks_S[order])])

    def tokens(self) -> np.ndarray:
        """int32, all samples' tokens in order, copied."""
        return np.concatenate(list(chain.from_iterable(self.views_S)))


def with_specials(pieces: Pieces, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids_T int64, lengths_S int64): each sample as `<s> chunk </s> chunk </s> …`, one after the other.

    `tokens` are those of the pieces.
    """
    samples, chunks = len(pieces.chunks_S), len(pieces.length_C)
    assert len(tokens) == pieces.length_C.sum(), "chunks must add up to the tokens"
    sample_C = np.repeat(np.arange(samples), pieces.chunks_S)
    # before the end of chunk c of sample s lie the tokens so far, c ends and s + 1 beginnings
    end_C = np.cumsum(pieces.length_C) + np.arange(chunks) + sample_C + 1
    bounds_S1 = np.concatenate([[0], end_C[np.cumsum(pieces.chunks_S) - 1] + 1])
    is_token_T = np.ones(len(tokens) + chunks + samples, dtype=bool)
    is_token_T[end_C] = False
    is_token_T[bounds_S1[:-1]] = False
    ids_T = np.full(len(is_token_T), EOS, dtype=np.int64)
    ids_T[bounds_S1[:-1]] = BOS
    ids_T[is_token_T] = tokens
    return ids_T, np.diff(bounds_S1)


def ragged_indices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64: starts[0], starts[0] + 1, … (lengths[0] of them), then starts[1], … ."""
    return np.repeat(starts - _starts(lengths), lengths) + np.arange(lengths.sum())


def order_within(owner_T: np.ndarray, score_T: np.ndarray) -> np.ndarray:
    """int64 [T]: the order that sorts what each owner has by its scores; owners keep their places, and so do equal scores.

    owner_T: rising, below 2**24; score_T: below 2**40, of which the integer part counts. `np.lexsort` by both takes ten times
    as long.
    """
    assert not len(owner_T) or owner_T[-1] < 1 << 24, "owners and scores are sorted as one number"
    return np.argsort((owner_T.astype(np.uint64) << np.uint64(40)) | score_T.astype(np.uint64), kind="stable")


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths
