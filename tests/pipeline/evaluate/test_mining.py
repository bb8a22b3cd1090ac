"""Mining against the published algorithm, written out pair by pair; thresholds against all that there are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.mining import best_threshold, distinct, mine, score_at
from pipeline.texts.identified import Identified


def file_of(*texts: str) -> Identified:
    return Identified(Path("x"), [f"i{at}" for at in range(len(texts))], list(texts), numbered=False)


def unit(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.rand(count, 5, generator=torch.Generator().manual_seed(seed)) + 0.1, dim=1)


def written_out(source_SD: np.ndarray, target_TD: np.ndarray, k: int) -> list[tuple[int, int, float]]:
    cosine_ST = source_SD @ target_TD.T
    near_s = [np.argsort(-row)[:k] for row in cosine_ST]
    near_t = [np.argsort(-column)[:k] for column in cosine_ST.T]
    mean_s = [cosine_ST[s, near].mean() for s, near in enumerate(near_s)]
    mean_t = [cosine_ST[near, t].mean() for t, near in enumerate(near_t)]
    margin = {
        (s, t): cosine_ST[s, t] * 2 / (mean_s[s] + mean_t[t])
        for s in range(len(source_SD))
        for t in range(len(target_TD))
    }
    candidates = [max(((s, int(t)) for t in near), key=margin.__getitem__) for s, near in enumerate(near_s)]
    candidates += [max(((int(s), t) for s in near), key=margin.__getitem__) for t, near in enumerate(near_t)]
    taken: list[tuple[int, int, float]] = []
    for s, t in sorted(candidates, key=margin.__getitem__, reverse=True):
        if all(s != s_taken and t != t_taken for s_taken, t_taken, _ in taken):
            taken.append((s, t, margin[s, t]))
    return taken


@pytest.mark.parametrize(("sources", "targets"), [(40, 30), (7, 40), (1, 5), (5, 1)])
@pytest.mark.parametrize("k", [3, 4])  # with 1, every mutual pair has a margin of 1
def test_pairs_are_those_of_the_published_algorithm(sources: int, targets: int, k: int) -> None:
    source_SD, target_TD = unit(sources, 1), unit(targets, 2)
    texts = [
        distinct(file_of(*(f"{side}{at}" for at in range(count)))) for side, count in (("s", sources), ("t", targets))
    ]
    done: list[int] = []
    found = mine(*texts, source_SD, target_TD, k, compared=done.append)
    expected = written_out(source_SD.double().numpy(), target_TD.double().numpy(), k)
    assert [(pair.source, pair.target) for pair in found] == [(s, t) for s, t, _ in expected]
    np.testing.assert_allclose([pair.margin for pair in found], [margin for *_, margin in expected], rtol=1e-5)
    assert done[-1] == sources + targets


def test_a_text_that_comes_again_takes_part_once_and_is_in_no_pair() -> None:
    source, target = distinct(file_of("a", "b", " ", "a ", "c")), distinct(file_of("x", "y", "z"))
    assert source.texts == ["a", "b", "c"] and source.places == [[0, 3], [1], [4]] and source.repeated == 1
    vectors_SD = unit(3, 1)
    found = mine(source, target, vectors_SD, vectors_SD)
    assert sorted((pair.source, pair.target) for pair in found) == [(1, 1), (4, 2)]
    with pytest.raises(ValueError, match="x: all its lines are blank"):
        distinct(file_of("", " "))


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12), st.integers(0, 4))
def test_no_threshold_has_a_larger_f1(drawn: list[tuple[int, bool]], missed: int) -> None:
    drawn.sort(reverse=True)
    margins, right = [float(margin) for margin, _ in drawn], [is_right for _, is_right in drawn]
    gold = max(sum(right) + missed, 1)
    chosen = score_at(best_threshold(margins, right, gold), margins, right, gold)
    others = [score_at(threshold, margins, right, gold) for threshold in (*margins, 99.0)]
    assert chosen.f1 == pytest.approx(max(other.f1 for other in others))
    assert chosen.threshold not in margins or chosen.threshold == margins[-1], "half-way to the next pair"
    if not any(right):
        assert (chosen.pairs, chosen.f1, chosen.precision) == (0, 0.0, 0.0)


def test_scores_are_those_of_the_pairs_above() -> None:
    score = score_at(1.0, [1.3, 1.2, 1.0, 0.9], [True, False, True, True], 5)
    assert (score.pairs, score.right, score.gold) == (3, 2, 5)
    assert (score.precision, score.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 5))
    assert score.f1 == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5)) == score.as_json()["f1"]
