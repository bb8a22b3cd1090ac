"""Languages come with their shares, their ordinals count up without gaps, and none is too small to come."""

import numpy as np
import pytest

from pipeline.data.blend import CYCLE, PERIOD, Blend, Schedule, Stage, temperature_shares

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
def test_tiny_languages_come_once_a_cycle(tiny: int) -> None:
    blend = Blend(temperature_shares([10**12] + [1] * tiny, 1.0), seed=1)
    counts = blend.counts(CYCLE * PERIOD)
    assert counts[0] == CYCLE * PERIOD - tiny and (counts[1:] == 1).all()
    half = blend.counts(CYCLE // 2 * PERIOD)[1:].sum()
    assert abs(half - tiny / 2) <= 1, "spread evenly over the cycle"


@pytest.mark.parametrize("alpha", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("samples", [10_000, 400_000, 3_000_001])
def test_94_languages_of_very_unequal_size_come_in_their_shares(alpha: float, samples: int) -> None:
    # CC-100: from 300 GB of English down to less than a megabyte
    sizes = np.geomspace(3e11, 4e5, 94)
    shares = temperature_shares(sizes.tolist(), alpha)
    language_B, _ = Blend(shares, seed=5)(np.arange(samples))
    counts = np.bincount(language_B, minlength=94)
    sigma = np.sqrt(samples * shares * (1 - shares))
    assert (np.abs(counts - samples * shares) <= 3 * np.maximum(sigma, 1 / 3)).all()


def test_counts_are_those_of_the_samples() -> None:
    blend = Blend(temperature_shares([*COUNTS, 3, 1], 0.9), seed=3)
    language_B, _ = blend(np.arange(3 * PERIOD))
    for samples in (0, 1, 777, PERIOD, 2 * PERIOD + 5):
        assert blend.counts(samples).tolist() == np.bincount(language_B[:samples], minlength=6).tolist()
    assert blend.counts(CYCLE * PERIOD).tolist() == blend.quota_L.tolist()
    assert blend.counts(3 * CYCLE * PERIOD + 7).tolist() == (3 * blend.quota_L + blend.counts(7)).tolist()


def test_ordinals_go_on_across_periods_and_cycles() -> None:
    blend = Blend(temperature_shares([1000, 10, 7, 1], 1.0), seed=3)
    start = CYCLE * PERIOD - 2 * PERIOD
    language_B, ordinal_B = blend(np.arange(start, start + 4 * PERIOD))
    before = blend.counts(start)
    for language in range(4):
        mine = ordinal_B[language_B == language]
        assert np.array_equal(mine, before[language] + np.arange(len(mine)))


def test_a_language_of_weight_0_never_comes() -> None:
    language_B, _ = Blend(np.array([0.5, 0.0, 0.5]), seed=1)(np.arange(2 * PERIOD))
    assert np.bincount(language_B, minlength=3).tolist() == [PERIOD, 0, PERIOD]


def test_weights_are_taken_as_they_are() -> None:
    stage = Stage(0, weights={"de": 3, "en": 1, "zh": 0})
    assert stage.shares(["de", "en", "zh"], [1, 10**9, 5]).tolist() == [0.75, 0.25, 0.0]


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"de": 1.0}, "data.weights: en is either"),
        ({"de": 1, "en": 1, "fr": 1}, "fr is"),
        ({"de": 0, "en": 0}, "all are 0"),
    ],
)
def test_weights_that_do_not_fit_the_data_are_refused(weights: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        Stage(0, weights=weights).shares(["de", "en"], [1, 2])


def test_a_schedule_changes_the_shares_and_no_sample_is_lost_or_repeated() -> None:
    firsts = [0, 1000, 1000 + 3 * PERIOD + 17]
    shares = [temperature_shares(COUNTS, alpha) for alpha in (0.0, 0.5, 1.0)]
    schedule = Schedule(firsts, shares, seed=3)
    index_B = np.arange(firsts[-1] + 100_000)
    language_B, ordinal_B = schedule(index_B)
    for language in range(len(COUNTS)):
        mine = ordinal_B[language_B == language]
        assert np.array_equal(mine, np.arange(len(mine)))
    for begin, end, expected in zip(firsts, [*firsts[1:], len(index_B)], shares, strict=True):
        found = np.bincount(language_B[begin:end], minlength=4) / (end - begin)
        assert np.abs(found - expected).max() < 3 * np.sqrt(0.25 / (end - begin))
    some = np.array([firsts[2], 5, firsts[1] - 1, firsts[1], 150_000])
    assert np.array_equal(schedule(some)[1], ordinal_B[some])


def test_a_schedule_of_one_stage_is_its_blend() -> None:
    shares = temperature_shares(COUNTS, 0.7)
    index_B = np.arange(0, 5 * PERIOD, 13)
    for one, other in zip(Schedule([0], [shares], 3)(index_B), Blend(shares, 3)(index_B), strict=True):
        assert np.array_equal(one, other)
