"""Draws depend on their key alone, are spread evenly, and permutations reach every index once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.counter_random import hash_key, integers, permute, uniform

DRAWS = 200_000


def test_a_draw_depends_only_on_its_key() -> None:
    together = hash_key(7, np.arange(5)[:, None], np.arange(3)[None, :])
    apart = [[int(hash_key(7, row, column)) for column in range(3)] for row in range(5)]
    assert together.tolist() == apart


def test_every_part_of_the_key_and_their_order_matter() -> None:
    keys = [(1, 2, 3), (2, 1, 3), (1, 3, 2), (1, 2), (1, 2, 3, 0), (1, 2, 4), (0, 2, 3)]
    assert len({int(hash_key(*key)) for key in keys}) == len(keys)


def test_hashes_stay_the_same_from_release_to_release() -> None:
    # The order of the data of every run that can be resumed hangs on these.
    hashes = [int(hash_key(*key)) for key in [(0,), (1, 2, 3), (2**40, 2**63)]]
    assert hashes == [6851654266524023147, 2659460322420274938, 7273450149687238069]
    assert permute(np.arange(10), 10, hash_key(5)).tolist() == [3, 8, 5, 4, 7, 9, 1, 0, 2, 6]


def test_neighbouring_keys_share_half_of_their_bits() -> None:
    hashes = hash_key(3, np.arange(10_000))
    differing = np.unpackbits((hashes[1:] ^ hashes[:-1]).view(np.uint8)).mean()
    assert abs(differing - 0.5) < 0.002


def test_uniform_draws_fill_the_unit_interval_evenly() -> None:
    draws = uniform(hash_key(1, np.arange(DRAWS)))
    counts, _ = np.histogram(draws, bins=100, range=(0, 1))
    assert draws.min() >= 0 and draws.max() < 1
    expected = DRAWS / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # chi-square, 99 degrees of freedom: p < 1e-4 beyond


def test_uniform_stays_below_one_for_the_largest_hash() -> None:
    assert uniform(np.array([2**64 - 1], dtype=np.uint64))[0] < 1.0


def test_integers_are_even_and_within_their_range() -> None:
    draws = integers(hash_key(2, np.arange(DRAWS)), 4, 54)
    counts = np.bincount(draws, minlength=54)
    assert draws.dtype == np.int64 and counts[:4].sum() == 0 and len(counts) == 54
    expected = DRAWS / 50
    assert ((counts[4:] - expected) ** 2 / expected).sum() < 95  # 49 degrees of freedom: p < 1e-4 beyond


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permutation_reaches_every_index_exactly_once(size: int, key: int) -> None:
    landed = permute(np.arange(size), size, np.uint64(key))
    assert np.array_equal(np.sort(landed), np.arange(size))


def test_permutation_of_one_index_does_not_depend_on_what_is_asked_with_it() -> None:
    whole = permute(np.arange(1000), 1000, hash_key(9))
    assert [int(permute(np.array([i]), 1000, hash_key(9))[0]) for i in range(0, 1000, 37)] == whole[::37].tolist()


def test_permutation_takes_a_key_per_index() -> None:
    keys = hash_key(1, np.arange(4))
    mixed = permute(np.array([5, 5, 5, 5]), 1000, keys)
    assert mixed.tolist() == [int(permute(np.array([5]), 1000, key)[0]) for key in keys]
    assert len(set(mixed.tolist())) > 1


def test_permutations_of_other_keys_are_other_permutations() -> None:
    first, second = (permute(np.arange(1000), 1000, hash_key(key)) for key in (1, 2))
    assert (first == second).sum() < 10  # one fixed point is expected


def test_permutation_has_no_trend() -> None:
    landed = permute(np.arange(10_000), 10_000, hash_key(4))
    assert abs(np.corrcoef(np.arange(10_000), landed)[0, 1]) < 0.04


def test_permutation_works_far_beyond_what_fits_in_memory() -> None:
    size = 10**12 + 7
    landed = permute(np.array([0, 1, size - 1]), size, hash_key(1))
    assert len(set(landed.tolist())) == 3 and landed.min() >= 0 and landed.max() < size


def test_index_outside_the_range_is_refused() -> None:
    with pytest.raises(AssertionError, match="outside"):
        permute(np.array([10]), 10, hash_key(1))
