"""Random numbers as a pure function of what they are for: no generator state to save, ship or restore.

A draw depends only on its key (seed, epoch, sample index, …), so every rank, worker and resumed run draws the same.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def hash_key(*parts: int | np.ndarray) -> np.ndarray:
    """Mix integers (arrays broadcast) into uint64 hashes; the finalizer is SplitMix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        state = _GOLDEN
        for part in parts:
            state = state * _MIX_2 + np.asarray(part).astype(np.uint64) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * _MIX_1
            state = (state ^ (state >> np.uint64(27))) * _MIX_2
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Hashes to float64 in [0, 1): the upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(hashes: np.ndarray, low: int, high: int) -> np.ndarray:
    """Hashes to int64 in [low, high); the bias of the multiply-shift is below (high - low) / 2**32."""
    span = np.uint64(high - low)
    return (((hashes >> np.uint64(32)) * span) >> np.uint64(32)).astype(np.int64) + low


def permute(index_B: np.ndarray, size: int, key_B: np.ndarray) -> np.ndarray:
    """Where `index` lands in the pseudo-random permutation of range(size) that `key` selects.

    A four-round Feistel network over the smallest even number of bits that holds `size`, walked until it lands inside
    (Black & Rogaway, CT-RSA 2002): O(1) memory for any size, at most four expected walks.
    """
    assert size > 0, "cannot permute an empty range"
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    low_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    value_B = np.array(index_B, dtype=np.uint64)
    assert (value_B < size).all(), "index outside the permuted range"
    key_B = np.broadcast_to(np.asarray(key_B, dtype=np.uint64), value_B.shape)
    todo = np.arange(len(value_B))
    while len(todo):
        left, right = value_B[todo] >> half_bits, value_B[todo] & low_mask
        for round_number in range(4):
            left, right = right, left ^ (hash_key(key_B[todo], round_number, right) & low_mask)
        value_B[todo] = (left << half_bits) | right
        todo = todo[value_B[todo] >= size]
    return value_B.astype(np.int64)
