"""Words are drawn as the softmax says, by numbers that are given, whatever the chunk and the dtype."""

from __future__ import annotations

import pytest
import torch

from pipeline.model import linear_draw as module
from pipeline.model.linear_draw import draw, linear_draw

GRID = 100_000


def grid(count: int) -> torch.Tensor:
    """As many numbers, evenly over [0, 1)."""
    return (torch.arange(count, dtype=torch.double) + 0.5) / count


@pytest.mark.parametrize("words", [1, 7, 512, 513, 1300])
def test_frequencies_over_a_grid_are_the_softmax(words: int) -> None:
    logits_V = 2 * torch.randn(words)
    drawn = draw(logits_V.expand(GRID, -1), grid(GRID)) if words < 10 else drawn_in_parts(logits_V)
    frequency_V = torch.bincount(drawn, minlength=words).double() / GRID
    # A word's part of [0, 1) holds as many points of the grid as its length says, give or take one.
    assert (frequency_V - logits_V.double().softmax(0)).abs().max() < 2 / GRID


def drawn_in_parts(logits_V: torch.Tensor) -> torch.Tensor:
    return torch.cat([draw(logits_V.expand(len(part), -1), part) for part in grid(GRID).split(5000)])


def test_words_lie_in_the_order_of_their_ids_and_those_without_mass_are_never_drawn() -> None:
    logits_V = torch.full((1300,), float("-inf"))
    logits_V[[3, 600, 1200]] = torch.tensor([0.0, 1.0, 0.0])
    ends = torch.tensor([0.0, 0.1, 0.5, 0.9, 1 - 2.0**-53], dtype=torch.double)
    assert draw(logits_V.expand(5, -1), ends).tolist() == [3, 3, 600, 1200, 1200]
    assert draw(logits_V.expand(GRID // 10, -1), grid(GRID // 10)).unique().tolist() == [3, 600, 1200]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_row_s_word_depends_on_no_other_row_nor_on_the_chunk(dtype: torch.dtype) -> None:
    input_PD, weight_VD, bias_V = torch.randn(29, 8), torch.randn(700, 8), torch.randn(700)
    input_PD, weight_VD, bias_V = (tensor.to(dtype) for tensor in (input_PD, weight_VD, bias_V))
    uniform_P = torch.rand(29, dtype=torch.double)
    whole = linear_draw(input_PD, weight_VD, bias_V, uniform_P)
    assert whole.dtype == torch.long and len(whole.unique()) > 5
    for rows in (1, 4, 29):
        assert torch.equal(linear_draw(input_PD, weight_VD, bias_V, uniform_P, 2 * rows * 700), whole)
    assert torch.equal(linear_draw(input_PD[3:9], weight_VD, bias_V, uniform_P[3:9]), whole[3:9])
    assert linear_draw(input_PD[:0], weight_VD, bias_V, uniform_P[:0]).tolist() == []


def test_the_largest_vocabulary_s_sums_do_not_overflow() -> None:
    words = 2**22
    assert module.WHOLE * words < 2**63
    drawn = draw(torch.zeros(3, words), torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.double))
    assert drawn.tolist() == [0, words // 2, words - 1]


def test_logits_that_are_not_finite_give_some_word() -> None:
    for value in (float("nan"), float("inf")):
        logits_CV = torch.randn(4, 1000)
        logits_CV[1:3, 5] = value
        drawn = draw(logits_CV, torch.rand(4, dtype=torch.double))
        assert int(drawn.min()) >= 0 and int(drawn.max()) < 1000
