"""xTune's losses are those of sums in float64, value and gradient; what is a target has none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.finetune.consistency import (
    MEANS,
    Mean,
    divergence,
    example_consistency,
    model_consistency,
)

N, C = 5, 3


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(x - max(row)) for x in row]
    return [p / sum(powers) for p in powers]


def kl(target: list[list[float]], logits: list[list[float]], mean: Mean) -> float:
    """Of lists, by the formula."""
    total = 0.0
    for p, q in zip(map(softmax, target), map(softmax, logits), strict=True):
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return total / (len(target) * (len(target[0]) if mean == "elements" else 1))


def differences(loss: Callable[[list[list[float]]], float], at: list[list[float]]) -> np.ndarray:
    """The gradient by central differences."""
    step, gradient = 1e-5, np.zeros((len(at), len(at[0])))
    for i, row in enumerate(at):
        for j in range(len(row)):
            values = []
            for sign in (1, -1):
                moved = [list(each) for each in at]
                moved[i][j] += sign * step
                values.append(loss(moved))
            gradient[i, j] = (values[0] - values[1]) / (2 * step)
    return gradient


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(3)
    return tuple((3 * torch.randn(N, C, generator=drawn)).requires_grad_() for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("mean", MEANS)
def test_example_consistency_and_its_gradients_are_those_of_the_formula(
    pair: tuple[Tensor, Tensor], mean: Mean
) -> None:
    first, other = pair
    a, b = first.tolist(), other.tolist()
    loss = example_consistency(first, other, mean)
    assert loss.item() == pytest.approx(kl(a, b, mean) + kl(b, a, mean), rel=1e-5)
    of_first, of_other = torch.autograd.grad(loss, (first, other))
    # each side moves towards the other, which stands still
    np.testing.assert_allclose(of_first, differences(lambda x: kl(b, x, mean), a), atol=1e-6)
    np.testing.assert_allclose(of_other, differences(lambda x: kl(a, x, mean), b), atol=1e-6)


def test_as_released_a_weight_acts_as_if_divided_by_the_number_of_labels(pair: tuple[Tensor, Tensor]) -> None:
    assert example_consistency(*pair, "items").item() == pytest.approx(C * example_consistency(*pair).item(), rel=1e-6)
    first, other = (each.detach().log_softmax(-1) for each in pair)
    released = torch.nn.functional.kl_div(first, other.exp(), reduction="none").mean()
    assert divergence(pair[0], pair[1]).item() == pytest.approx(released.item(), rel=1e-5)


@pytest.mark.parametrize("mean", MEANS)
def test_model_consistency_moves_the_student_alone(pair: tuple[Tensor, Tensor], mean: Mean) -> None:
    student, teacher = pair
    loss = model_consistency(student, teacher, mean)
    assert loss.item() == pytest.approx(kl(teacher.tolist(), student.tolist(), mean), rel=1e-5)
    of_student, of_teacher = torch.autograd.grad(loss, (student, teacher), allow_unused=True)
    assert of_teacher is None
    fixed = teacher.tolist()
    np.testing.assert_allclose(of_student, differences(lambda x: kl(fixed, x, mean), student.tolist()), atol=1e-6)


def test_what_agrees_costs_nothing_and_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[0.0, 200.0, -200.0]], requires_grad=True)
    assert example_consistency(logits, logits.detach().clone()).item() == 0.0
    loss = example_consistency(logits, torch.tensor([[200.0, 0.0, -200.0]]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()
    half = torch.randn(2, 3).bfloat16()
    assert divergence(half, half).dtype == torch.float32
