"""Which language comes when: sampling by n(l)^alpha, or by given shares, as arithmetic on the global sample index.

Knows counts and names only, nothing of files; no table grows with the data or the length of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.counter_random import hash_key

PERIOD = 1 << 16  # samples in one order of slots
CYCLE_BITS = 8
CYCLE = 1 << CYCLE_BITS  # periods after which languages' shares are exact to one sample in PERIOD × CYCLE


def temperature_shares(counts: Sequence[int], alpha: float) -> np.ndarray:
    """p(l) ∝ n(l)^α (Conneau & Lample, NeurIPS 2019, section 3.1). counts: tokens or pairs per language, all > 0."""
    weights = np.asarray(counts, dtype=np.float64) ** alpha
    return weights / weights.sum()


@dataclass(frozen=True)
class Stage:
    """How a stream's languages are blended from a global sample index on: by temperature, or by weights of their own."""

    first: int
    alpha: float = 1.0
    weights: Mapping[str, float] | None = None

    def shares(self, names: Sequence[str], counts: Sequence[int]) -> np.ndarray:
        """Share of each language; `counts` are their tokens or pairs.

        Raises:
            ValueError: weights are given, but not for just these languages, or none is above 0.
        """
        if self.weights is None:
            return temperature_shares(counts, self.alpha)
        if wrong := sorted(self.weights.keys() ^ set(names)):
            raise ValueError(
                f"data.weights: {', '.join(wrong)} is either without a weight or without data; give one for each of "
                f"{', '.join(names)}, 0 to leave it out"
            )
        weights = np.array([self.weights[name] for name in names])
        total = sum(weights.tolist())
        if total == 0:
            raise ValueError("data.weights: all are 0; give one that is larger")
        if total == math.inf:
            raise ValueError("data.weights: their sum is infinite; give smaller ones")
        return weights / weights.sum()


class Blend:
    """Maps a global sample index to (language, ordinal): its language and how many of that language came before.

    In a cycle of CYCLE × PERIOD samples a language has a whole number of places: its share rounded by largest remainder,
    and at least one. Each period of the cycle holds that number / CYCLE of them, rounded up or down so that the periods
    add up: the same slots in every period, in an order drawn once from the seed, and a few left-over slots that
    languages with a remainder take in turn.
    """

    def __init__(self, shares: np.ndarray, seed: int) -> None:
        assert 0 < len(shares) < PERIOD, f"{len(shares)} languages do not fit a period of {PERIOD}"
        self.quota_L = _whole_parts(shares, PERIOD * CYCLE)
        self._base_L, remainder_L = np.divmod(self.quota_L, CYCLE)
        based, languages = int(self._base_L.sum()), np.arange(len(shares))
        order = np.argsort(hash_key(seed, np.arange(PERIOD)), kind="stable")

        # −1 − e marks left-over slot e; left-over slots are numbered in the order of their places
        self._slot = np.empty(PERIOD, dtype=np.int32)
        self._slot[order[:based]] = np.repeat(languages, self._base_L)
        left_over_E = np.sort(order[based:])
        self._slot[left_over_E] = -1 - np.arange(len(left_over_E))

        # Remainders laid end to end; period j takes the languages under a comb with a tooth every CYCLE, moved by the
        # bits of j reversed: each language as often in a cycle as its remainder says, spread evenly over it.
        bits_J = np.array([int(f"{period:0{CYCLE_BITS}b}"[::-1], 2) for period in range(CYCLE)])
        comb_JE = bits_J[:, None] + CYCLE * np.arange(len(left_over_E))
        self._extra_JE = np.searchsorted(np.cumsum(remainder_L), comb_JE, side="right")

        # A base slot's rank counts base slots before it, and the left-over slot of its language if that comes before.
        base_slots = np.flatnonzero(self._slot >= 0)
        by_language = np.argsort(self._slot[base_slots], kind="stable")
        keys = self._slot[base_slots][by_language].astype(np.int64) * PERIOD + base_slots[by_language]
        first_L = np.concatenate([[0], np.cumsum(self._base_L)])
        self._rank = np.zeros(PERIOD, dtype=np.int64)
        self._rank[base_slots[by_language]] = np.arange(based) - np.repeat(first_L[:-1], self._base_L)
        self._extra_rank_JE = np.searchsorted(keys, self._extra_JE * PERIOD + left_over_E) - first_L[self._extra_JE]
        self._extra_slot_JL = np.full((CYCLE, len(shares)), PERIOD)
        np.put_along_axis(self._extra_slot_JL, self._extra_JE, left_over_E[None, :], axis=1)
        taken_JL = self._extra_slot_JL < PERIOD
        self._extras_before_JL: np.ndarray = np.cumsum(taken_JL, axis=0) - taken_JL

    def __call__(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """index_B: int64 global sample indices → (language_B int32, ordinal_B int64)."""
        period_B, slot_B = np.divmod(index_B, PERIOD)
        cycle_B, period_B = np.divmod(period_B, CYCLE)
        language_B = self._slot[slot_B].copy()
        extra_B = language_B < 0
        left_over_B = -1 - language_B[extra_B]
        language_B[extra_B] = self._extra_JE[period_B[extra_B], left_over_B]
        rank_B = self._rank[slot_B] + (self._extra_slot_JL[period_B, language_B] < slot_B)
        rank_B[extra_B] = self._extra_rank_JE[period_B[extra_B], left_over_B]
        return language_B, cycle_B * self.quota_L[language_B] + self._before(period_B, language_B) + rank_B

    def _before(self, period_B: np.ndarray, language_B: np.ndarray) -> np.ndarray:
        return period_B * self._base_L[language_B] + self._extras_before_JL[period_B, language_B]

    def counts(self, samples: int) -> np.ndarray:
        """How many of each language the first `samples` hold, int64 (L,)."""
        period, within = divmod(samples, PERIOD)
        languages = np.arange(len(self.quota_L))
        whole_L = period // CYCLE * self.quota_L + self._before(np.full(len(languages), period % CYCLE), languages)
        language_B, _ = self(np.arange(samples - within, samples))
        return whole_L + np.bincount(language_B, minlength=len(languages))


def _whole_parts(shares: np.ndarray, total: int) -> np.ndarray:
    """Parts of `total` in these shares, int64: by largest remainder, and at least one for each that has any."""
    least = (shares > 0).astype(np.int64)
    exact = np.maximum(shares * total - least, 0.0)
    exact *= (total - least.sum()) / exact.sum()
    parts = least + np.floor(exact).astype(np.int64)
    remainder = total - parts.sum()
    assert 0 <= remainder <= len(shares), "rounding left more over than there are languages"
    parts[np.argsort(-(exact - np.floor(exact)), kind="stable")[:remainder]] += 1
    return parts


class Schedule:
    """Blends that follow one another. In each, languages go on where they were: ordinals count up without gaps."""

    def __init__(self, firsts: Sequence[int], shares: Sequence[np.ndarray], seed: int) -> None:
        """firsts: sample index at which each blend begins, ascending from 0."""
        assert firsts[0] == 0 and all(np.diff(firsts) > 0), "stages begin at 0 and follow one another"
        self._first_G = np.array(firsts)
        self._blends = [Blend(each, seed) for each in shares]
        counts = [blend.counts(int(length)) for blend, length in zip(self._blends, np.diff(firsts), strict=False)]
        self._before_GL = np.cumsum([np.zeros_like(shares[0], dtype=np.int64), *counts], axis=0)

    def __call__(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """index_B: int64 global sample indices → (language_B int32, ordinal_B int64)."""
        stage_B = np.searchsorted(self._first_G, index_B, side="right") - 1
        language_B, ordinal_B = np.empty(len(index_B), dtype=np.int32), np.empty(len(index_B), dtype=np.int64)
        for stage in np.unique(stage_B):
            mine = np.flatnonzero(stage_B == stage)
            language_B[mine], ordinal_B[mine] = self._blends[stage](index_B[mine] - self._first_G[stage])
        return language_B, ordinal_B + self._before_GL[stage_B, language_B]
