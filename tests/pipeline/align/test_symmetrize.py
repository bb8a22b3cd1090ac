"""Two directions made one: a case by hand, an oracle that walks all cells as Moses' manual says, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align.symmetrize import METHODS, symmetrize

SIZE = 6
Links = set[tuple[int, int]]
LINKS = st.sets(st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)), max_size=14)

FORWARD = {(0, 0), (1, 1), (2, 1), (4, 4), (5, 3)}
BACKWARD = {(0, 0), (1, 1), (1, 2), (3, 5), (5, 3)}
BY_HAND = {
    "intersect": [(0, 0), (1, 1), (5, 3)],
    "union": [(0, 0), (1, 1), (1, 2), (2, 1), (3, 5), (4, 4), (5, 3)],
    # 1-2 and 2-1 lie beside 1-1, 4-4 beside 5-3 and both of its words are free; then 3-5 lies beside 4-4
    "grow-diag": [(0, 0), (1, 1), (1, 2), (2, 1), (3, 5), (4, 4), (5, 3)],
}


@pytest.mark.parametrize("method", BY_HAND)
def test_a_case_worked_by_hand(method: str) -> None:
    assert symmetrize(FORWARD, BACKWARD, method) == BY_HAND[method]


def test_final_adds_what_has_one_free_word_and_final_and_what_has_two() -> None:
    forward, backward = {(0, 0), (2, 2), (0, 5)}, {(0, 0), (4, 4)}
    assert symmetrize(forward, backward, "grow-diag") == [(0, 0)]
    assert symmetrize(forward, backward, "grow-diag-final") == [(0, 0), (0, 5), (2, 2), (4, 4)]
    assert symmetrize(forward, backward, "grow-diag-final-and") == [(0, 0), (2, 2), (4, 4)]


def oracle(forward: Links, backward: Links, last: str) -> Links:
    """The pseudo code of Moses' manual, cell by cell, with nothing remembered."""
    found, either = forward & backward, forward | backward

    def free(axis: int, word: int) -> bool:
        return all(link[axis] != word for link in found)

    while True:
        before = set(found)
        for i in range(SIZE):
            for j in range(SIZE):
                for x, y in ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
                    new = (i + x, j + y)
                    if (i, j) in found and new in either and (free(0, new[0]) or free(1, new[1])):
                        found = found | {new}
        if before == found:
            break
    for direction in (forward, backward) if last else ():
        for i in range(SIZE):
            for j in range(SIZE):
                free_words = [free(0, i), free(1, j)]
                if (i, j) in direction and (all if last == "and" else any)(free_words):
                    found = found | {(i, j)}
    return found


@settings(deadline=None)
@given(LINKS, LINKS)
def test_growing_is_what_the_oracle_does(forward: Links, backward: Links) -> None:
    for method, last in (("grow-diag", ""), ("grow-diag-final", "or"), ("grow-diag-final-and", "and")):
        assert symmetrize(forward, backward, method) == sorted(oracle(forward, backward, last)), method


@settings(deadline=None)
@given(LINKS, LINKS)
def test_every_method_lies_between_intersection_and_union(forward: Links, backward: Links) -> None:
    found = {method: set(symmetrize(forward, backward, method)) for method in METHODS}
    assert found["intersect"] <= found["grow-diag"] <= found["grow-diag-final-and"] <= found["union"]
    assert found["grow-diag"] <= found["grow-diag-final"] <= found["union"]


@settings(deadline=None)
@given(LINKS)
def test_equal_directions_stay_as_they_are(links: Links) -> None:
    assert all(symmetrize(links, links, method) == sorted(links) for method in METHODS)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="--method grow: choose intersect, union, grow-diag, "):
        symmetrize([], [], "grow")
