"""Which language comes when: the sampling distribution of DESIGN as arithmetic on the global sample index.

Knows counts and names only, nothing of files; no table grows with the data or the length of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.counter_random import hash_key

PERIOD = 1 << 16  # languages' shares are exact over every PERIOD consecutive samples


def temperature_shares(counts: Sequence[int], alpha: float) -> np.ndarray:
    """p(l) ∝ n(l)^α (Conneau & Lample, NeurIPS 2019, section 3.1). counts: tokens or pairs per language, all > 0."""
    weights = np.asarray(counts, dtype=np.float64) ** alpha
    return weights / weights.sum()


class Blend:
    """Maps a global sample index to (language, ordinal): its language and how many of that language came before.

    Every window of PERIOD samples holds each language the same whole number of times (its share rounded by largest
    remainder, never below one), in an order drawn once from the seed.
    """

    def __init__(self, shares: np.ndarray, seed: int) -> None:
        assert 0 < len(shares) < PERIOD, f"{len(shares)} languages do not fit a period of {PERIOD}"
        # One sample each, so that the smallest comes too; the others' shares of what is left, by largest remainder.
        exact = np.maximum(shares * PERIOD - 1, 0.0)
        exact *= (PERIOD - len(shares)) / exact.sum()
        quota = 1 + np.floor(exact).astype(np.int64)
        remainder = PERIOD - quota.sum()
        assert 0 <= remainder <= len(shares), "rounding left more samples over than there are languages"
        quota[np.argsort(-(exact - np.floor(exact)), kind="stable")[:remainder]] += 1
        self.quota = quota

        slots = np.repeat(np.arange(len(shares)), quota)
        order = np.argsort(hash_key(seed, np.arange(PERIOD)), kind="stable")
        self._language = slots[order].astype(np.int32)
        self._rank = np.empty(PERIOD, dtype=np.int64)
        for language in range(len(shares)):
            at = np.flatnonzero(self._language == language)
            self._rank[at] = np.arange(len(at))

    def __call__(self, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """index_B: int64 global sample indices → (language_B int32, ordinal_B int64)."""
        period_B, slot_B = np.divmod(index_B, PERIOD)
        language_B = self._language[slot_B]
        return language_B, period_B * self.quota[language_B] + self._rank[slot_B]
