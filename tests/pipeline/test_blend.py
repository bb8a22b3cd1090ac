"""Languages come with their shares, their ordinals count up without gaps, and none is too small to come."""

import numpy as np
import pytest

from pipeline.blend import PERIOD, Blend, temperature_shares

COUNTS = [1_000_000, 250_000, 31_000, 900]


def test_shares_follow_the_temperature() -> None:
    shares = temperature_shares([100, 1], 0.5)
    assert shares.tolist() == pytest.approx([10 / 11, 1 / 11])


def test_alpha_one_is_proportional_and_alpha_zero_is_even() -> None:
    assert temperature_shares([30, 10], 1.0).tolist() == pytest.approx([0.75, 0.25])
    assert temperature_shares([30, 10], 0.0).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0])
def test_every_period_holds_the_shares_within_rounding(alpha: float) -> None:
    shares = temperature_shares(COUNTS, alpha)
    blend = Blend(shares, seed=3)
    for period in (0, 7):
        language_B, _ = blend(np.arange(period * PERIOD, (period + 1) * PERIOD))
        counts = np.bincount(language_B, minlength=len(shares))
        assert np.abs(counts - shares * PERIOD).max() <= 1


def test_ordinals_of_a_language_count_up_without_gaps() -> None:
    blend = Blend(temperature_shares(COUNTS, 0.7), seed=3)
    language_B, ordinal_B = blend(np.arange(2 * PERIOD + 999))
    for language in range(len(COUNTS)):
        mine = ordinal_B[language_B == language]
        assert np.array_equal(mine, np.arange(len(mine)))


def test_an_index_means_the_same_whatever_is_asked_with_it() -> None:
    blend = Blend(temperature_shares(COUNTS, 0.7), seed=3)
    language_B, ordinal_B = blend(np.arange(70_000))
    some = np.array([69_999, 0, 65_536, 12])
    language_S, ordinal_S = blend(some)
    assert np.array_equal(language_S, language_B[some]) and np.array_equal(ordinal_S, ordinal_B[some])


def test_the_seed_decides_the_order_and_nothing_else() -> None:
    shares = temperature_shares(COUNTS, 0.7)
    first, again, other = (Blend(shares, seed)(np.arange(PERIOD))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other) and np.array_equal(np.sort(first), np.sort(other))


def test_languages_are_mixed_within_a_period() -> None:
    language_B, _ = Blend(np.array([0.5, 0.5]), seed=1)(np.arange(PERIOD))
    assert np.abs(language_B.reshape(64, -1).mean(axis=1) - 0.5).max() < 0.08  # 1024 draws a window: 5 sigma


def test_one_language_is_all_there_is() -> None:
    language_B, ordinal_B = Blend(np.array([1.0]), seed=1)(np.arange(100))
    assert language_B.max() == 0 and np.array_equal(ordinal_B, np.arange(100))


@pytest.mark.parametrize("tiny", [1, 10, 300, 5000])
def test_tiny_languages_come_once_a_period(tiny: int) -> None:
    shares = temperature_shares([10**12] + [1] * tiny, 1.0)
    language_B, _ = Blend(shares, seed=1)(np.arange(PERIOD))
    counts = np.bincount(language_B, minlength=tiny + 1)
    assert counts[0] == PERIOD - tiny and (counts[1:] == 1).all()
