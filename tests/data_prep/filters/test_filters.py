"""Each pair filter drops what it names and nothing else."""

import pytest

from data_prep.filters.bounds import PairFilters


@pytest.mark.parametrize(
    ("source", "target", "score", "reason"),
    [
        ("a b", "c", None, None),
        ("", "c", None, "empty"),
        ("a", " \t", None, "empty"),
        ("a b", " a b ", None, "identical"),
        ("a", "b", 1.05, None),
        ("a", "b", 1.03, "low_score"),
        ("a", "b", float("nan"), "low_score"),
    ],
)
def test_text_filters(source: str, target: str, score: float | None, reason: str | None) -> None:
    filters = PairFilters(min_score=None if score is None else 1.04)
    assert filters.drop_text(source, target, score) == reason


def test_identical_sides_can_be_kept() -> None:
    assert PairFilters(keep_identical=True).drop_text("a", "a", None) is None


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (10, 10, None),
        (10, 20, None),
        (20, 10, None),
        (10, 21, "too_long"),
        (5, 16, "length_ratio"),
        (16, 5, "length_ratio"),
        (0, 5, "empty"),
    ],
)
def test_token_filters(source: int, target: int, reason: str | None) -> None:
    assert PairFilters(max_tokens=20, max_ratio=3.0).drop_tokens(source, target) == reason


def test_there_is_no_minimum_word_count() -> None:
    assert PairFilters().drop_tokens(1, 1) is None


@pytest.mark.parametrize(
    ("bounds", "message"), [({"max_tokens": 0}, "--max-tokens 0"), ({"max_ratio": 0.5}, "--max-ratio 0.5")]
)
def test_a_bound_out_of_range_is_refused(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairFilters(**bounds)
