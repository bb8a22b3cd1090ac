"""Random numbers as a pure function of what they are for: no generator state to save, ship or restore.

A draw depends only on its key (seed, epoch, sample index, …), so every rank, worker and resumed run draws the same.
"""

from __future__ import annotations

import numpy as np

# What a key is for, so that equal indices draw independently; each is mixed in after the seed. A view has a counter of its own.
ORDER, MASK, SWAP, DROPOUT, SIDES = 1, 2, 3, 4, 5
SIDES_TO_HIDE, CLOZE, SPANS, NOISE, TRANSLATION = 6, 7, 8, 9, 15
CONTRAST, MIX, PARTNER, APART, APART_MASKED = 10, 11, 12, 13, 14
GIVEN_LINKS = 16  # draws nothing
NO_VIEWS = (ORDER, SWAP, DROPOUT, CONTRAST, MIX, PARTNER)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_POWERS = np.uint64(1) << np.arange(64, dtype=np.uint64)
_ROUNDS_41 = np.arange(4)[:, None]


def hash_key(*parts: int | np.ndarray) -> np.ndarray:
    """Mix integers (arrays broadcast) into uint64 hashes; the finalizer is SplitMix64 (Steele et al., OOPSLA 2014)."""
    return extend_key(_GOLDEN, *parts)


def extend_key(key: np.uint64 | np.ndarray, *parts: int | np.ndarray) -> np.ndarray:
    """Mix more integers into a key: `extend_key(hash_key(a), b)` is `hash_key(a, b)`."""
    with np.errstate(over="ignore"):
        for part in parts:
            key = _mix(key, np.asarray(part).astype(np.uint64))
    return np.asarray(key)


def _mix(state: np.uint64 | np.ndarray, part: np.ndarray) -> np.ndarray:
    """One step of `extend_key`; in place where it can, as most of the time goes into passing over memory."""
    state = state * _MIX_2 + part
    state += _GOLDEN
    for shift, factor in ((np.uint64(30), _MIX_1), (np.uint64(27), _MIX_2)):
        state ^= state >> shift
        state *= factor
    return state ^ (state >> np.uint64(31))


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Hashes to float64 in [0, 1): the upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(hashes: np.ndarray, low: int, high: int) -> np.ndarray:
    """Hashes to int64 in [low, high); the bias of the multiply-shift is below (high - low) / 2**32."""
    span = np.uint64(high - low)
    return (((hashes >> np.uint64(32)) * span) >> np.uint64(32)).astype(np.int64) + low


def permute(index_B: np.ndarray, size_B: int | np.ndarray, key_B: np.ndarray) -> np.ndarray:
    """Where `index` lands in the pseudo-random permutation of range(size) that `key` selects; int64 (B,).

    A four-round Feistel network over the smallest even number of bits that holds `size`, walked until it lands inside
    (Black & Rogaway, CT-RSA 2002): O(1) memory for any size, at most four expected walks.
    """
    value_B = np.array(index_B, dtype=np.uint64)
    size_B = np.broadcast_to(np.asarray(size_B, dtype=np.uint64), value_B.shape)
    assert size_B.all(), "cannot permute an empty range"
    assert (value_B < size_B).all(), "index outside the permuted range"
    half_B = _half_bits(size_B)
    mask_B = (np.uint64(1) << half_B) - np.uint64(1)
    round_keys_4B = hash_key(np.broadcast_to(np.asarray(key_B, dtype=np.uint64), value_B.shape), _ROUNDS_41)
    todo = np.arange(len(value_B))
    while len(todo):
        value, half, mask = value_B[todo], half_B[todo], mask_B[todo]
        left, right = value >> half, value & mask
        for key in round_keys_4B[:, todo]:
            left, right = right, left ^ (_mix(key, right) & mask)
        value_B[todo] = value = (left << half) | right
        todo = todo[value >= size_B[todo]]
    return value_B.astype(np.int64)


def _half_bits(size_B: np.ndarray) -> np.ndarray:
    """uint64 (B,): half of the bits that hold `size` values, rounded up, at least one."""
    bits_B = np.searchsorted(_POWERS, size_B, side="left")  # 2**bits ≥ size
    return np.maximum(1, (bits_B + 1) // 2).astype(np.uint64)
