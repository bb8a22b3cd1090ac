"""Neighbours and the ratio margin against a definition that is written out sentence by sentence in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.evaluate.margin import Neighbours, best_by_margin, margins, nearest
from pipeline.evaluate.retrieval import both_ways


def unit(count: int, seed: int) -> torch.Tensor:
    """Vectors of length 1 in one half of space, as an encoder's are."""
    drawn_SD = torch.rand(count, 6, generator=torch.Generator().manual_seed(seed)) + 0.1
    return F.normalize(drawn_SD, dim=1)


def written_out(query_QD: np.ndarray, key_KD: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The best of each query's k neighbours by their margin, and that margin."""
    cosine_QK = query_QD @ key_KD.T
    around_Q = [np.sort(row)[::-1][:k].mean() for row in cosine_QK]
    around_K = [np.sort(column)[::-1][:k].mean() for column in cosine_QK.T]
    best = []
    for q, row in enumerate(cosine_QK):
        neighbours = np.argsort(-row)[:k]
        margin = {int(j): row[j] / ((around_Q[q] + around_K[j]) / 2) for j in neighbours}
        found = max(margin, key=margin.__getitem__)
        best.append((found, margin[found]))
    return best


@pytest.mark.parametrize(("queries", "keys"), [(23, 37), (37, 23), (1, 9), (9, 1), (3, 2)])
@pytest.mark.parametrize("at_once", [(4096, 8192), (5, 7)])
def test_margins_are_those_of_the_definition(
    queries: int, keys: int, at_once: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluate.margin.QUERIES_AT_ONCE", at_once[0])
    monkeypatch.setattr("pipeline.evaluate.margin.KEYS_AT_ONCE", at_once[1])
    first_SD, second_SD = unit(queries, 1), unit(keys, 2)
    of_first, of_second = nearest(first_SD, second_SD), nearest(second_SD, first_SD)
    assert of_first.index_Qk.shape == (queries, min(4, keys))
    best_S, margin_S = best_by_margin(of_first, of_second)
    expected = written_out(first_SD.double().numpy(), second_SD.double().numpy(), 4)
    assert best_S.tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(margin_S.numpy(), [margin for _, margin in expected], rtol=1e-5)
    assert both_ways(first_SD, second_SD, "margin")[0].tolist() == best_S.tolist()


def test_neighbours_are_the_largest_similarities_largest_first() -> None:
    query_QD, key_KD = unit(11, 3), unit(30, 4)
    found = nearest(query_QD, key_KD, k=5)
    expected = (query_QD @ key_KD.T).sort(dim=1, descending=True)
    torch.testing.assert_close(found.similarity_Qk, expected.values[:, :5])
    assert torch.equal(found.index_Qk, expected.indices[:, :5])


def test_a_hub_is_no_better_than_a_translation() -> None:
    # By cosine both sentences find sentence 0, which is near to everything; by margin each finds its own.
    queries = Neighbours(torch.tensor([[0.90, 0.80], [0.89, 0.88]]), torch.tensor([[0, 1], [0, 1]]))
    keys = Neighbours(torch.tensor([[0.90, 0.89], [0.88, 0.60]]), torch.tensor([[0, 1], [1, 0]]))
    assert queries.index_Qk[:, 0].tolist() == [0, 0]
    assert best_by_margin(queries, keys)[0].tolist() == [0, 1]
    assert margins(queries, keys)[1, 1] == pytest.approx(0.88 / (((0.89 + 0.88) / 2 + (0.88 + 0.60) / 2) / 2))
