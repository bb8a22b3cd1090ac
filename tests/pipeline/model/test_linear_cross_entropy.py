"""The chunked loss is cross_entropy(linear(...)): value and gradients, for any chunk, in every dtype."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.linear_cross_entropy import linear_cross_entropy, smoothed_cross_entropy

ROWS, VOCAB, WIDTH = 37, 101, 24


def operands(dtype: torch.dtype = torch.float32, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    input_PD, weight_VD, bias_V = torch.randn(rows, WIDTH), 0.5 * torch.randn(VOCAB, WIDTH), torch.randn(VOCAB)
    leaves = (tensor.to(dtype).requires_grad_() for tensor in (input_PD, weight_VD, bias_V))
    return *leaves, torch.randint(VOCAB, (rows,))


def plain(
    input_PD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_P: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """The definition, in fp64."""
    logits_PV = F.linear(input_PD.double(), weight_VD.double(), bias_V.double())
    return F.cross_entropy(logits_PV, target_P, reduction="sum", label_smoothing=label_smoothing)


@pytest.mark.parametrize("rows_at_once", [1, 2, 36, 37, 1000])
def test_loss_and_gradients_equal_cross_entropy_of_whole_logits(rows_at_once: int) -> None:
    *leaves, target_P = operands(torch.float64)
    expected = plain(*leaves, target_P)
    loss, correct = linear_cross_entropy(*leaves, target_P, logits_at_once=rows_at_once * VOCAB + 5)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(3.0 * value, leaves) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    assert int(correct) == int((F.linear(*leaves).argmax(-1) == target_P).sum())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_half_precision_gives_fp32_losses_and_gradients_in_its_own_dtype(dtype: torch.dtype, tolerance: float) -> None:
    *leaves, target_P = operands(dtype)
    expected = plain(*leaves, target_P)
    loss, _ = linear_cross_entropy(*leaves, target_P, logits_at_once=10 * VOCAB)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs.double()).norm() <= 2 * tolerance * theirs.double().norm()


def test_fp16_gradients_of_rare_words_do_not_vanish_before_they_are_scaled() -> None:
    *leaves, target_P = operands(torch.float16)
    with torch.no_grad():
        leaves[2][7] = -17.0  # a word with a share of about 1e-9, below fp16's smallest number
        target_P[target_P == 7] = 8
    scale = 2.0**16
    weight_grad = torch.autograd.grad(scale * linear_cross_entropy(*leaves, target_P)[0], leaves[1])[0][7]
    expected = torch.autograd.grad(scale * plain(*leaves, target_P), leaves[1])[0][7]
    assert float(expected.abs().max()) > 1e-6
    torch.testing.assert_close(weight_grad, expected, rtol=0.1, atol=1e-6)


def test_fp16_gradients_of_frequent_words_do_not_overflow_before_they_are_unscaled() -> None:
    *leaves, _ = operands(torch.float16, rows=600)
    target_P = torch.full((600,), 5)
    with torch.no_grad():
        leaves[0].abs_()
        leaves[1].zero_()
    gradients = torch.autograd.grad(linear_cross_entropy(*leaves, target_P)[0], leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert float(gradients[1][5].abs().max()) > 300


def test_a_target_that_is_all_but_impossible_has_a_finite_loss() -> None:
    weight_VD, bias_V = torch.zeros(VOCAB, WIDTH), torch.zeros(VOCAB)
    bias_V[3] = -200.0
    loss, _ = linear_cross_entropy(torch.ones(1, WIDTH), weight_VD, bias_V, torch.tensor([3]))
    torch.testing.assert_close(loss, plain(torch.ones(1, WIDTH), weight_VD, bias_V, torch.tensor([3])).float())


def test_without_rows_the_loss_and_all_gradients_are_zero() -> None:
    *leaves, target_P = operands(rows=0)
    loss, correct = linear_cross_entropy(*leaves, target_P)
    assert float(loss.detach()) == 0 and int(correct) == 0
    for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
        assert gradient.shape == leaf.shape and not gradient.any()


def test_without_gradient_nothing_is_kept_for_one() -> None:
    *leaves, target_P = operands()
    with torch.no_grad():
        loss, _ = linear_cross_entropy(*leaves, target_P)
    assert loss.grad_fn is None
    torch.testing.assert_close(loss.double(), plain(*leaves, target_P).detach(), rtol=1e-5, atol=0)


def test_logits_are_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    linear = F.linear

    def watched(*arguments: Tensor) -> Tensor:
        logits = linear(*arguments)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(F, "linear", watched)
    *leaves, target_P = operands()
    linear_cross_entropy(*leaves, target_P, logits_at_once=10 * VOCAB)
    assert sizes == [10 * VOCAB, 10 * VOCAB, 10 * VOCAB, 7 * VOCAB]


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
@pytest.mark.parametrize("rows_at_once", [1, 10, 1000])
def test_smoothed_loss_and_gradients_equal_cross_entropy_with_label_smoothing(
    rows_at_once: int, smoothing: float
) -> None:
    *leaves, target_P = operands(torch.float64)
    expected = plain(*leaves, target_P, smoothing)
    loss, unsmoothed, correct = smoothed_cross_entropy(*leaves, target_P, smoothing, rows_at_once * VOCAB)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    ours, theirs = (torch.autograd.grad(3.0 * value, leaves) for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    wanted, hits = linear_cross_entropy(*leaves, target_P, rows_at_once * VOCAB)
    assert torch.equal(unsmoothed, wanted.detach()) and torch.equal(correct, hits)
    assert not unsmoothed.requires_grad


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_smoothing_in_half_precision_is_as_near_as_without(dtype: torch.dtype, tolerance: float) -> None:
    *leaves, target_P = operands(dtype)
    expected = plain(*leaves, target_P, 0.1)
    loss, _, _ = smoothed_cross_entropy(*leaves, target_P, 0.1, 10 * VOCAB)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs.double()).norm() <= 2 * tolerance * theirs.double().norm()


def test_no_smoothing_adds_no_bit() -> None:
    *leaves, target_P = operands()
    loss, unsmoothed, _ = smoothed_cross_entropy(*leaves, target_P, 0.0)
    assert torch.equal(loss, unsmoothed)


GROUPS = (5, 0, 22, 10)


@pytest.mark.parametrize("rows_at_once", [1, 6, 1000])
def test_groups_of_rows_have_the_losses_of_each_and_the_gradient_of_all(rows_at_once: int) -> None:
    *leaves, target_P = operands(torch.float64)
    expected = [plain(input_PD, *leaves[1:], target) for input_PD, target in parts(leaves[0], target_P)]
    found = linear_cross_entropy(*leaves, target_P, rows_at_once * VOCAB, GROUPS)
    losses, correct = found[: len(GROUPS)], found[len(GROUPS) :]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-12, atol=0)
    hit_P = F.linear(*leaves).argmax(-1) == target_P
    assert [int(one) for one in correct] == [int(part.sum()) for part in hit_P.split(GROUPS)]
    ours, theirs = (torch.autograd.grad(3.0 * torch.stack(list(values)).sum(), leaves) for values in (losses, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def parts(input_PD: Tensor, target_P: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(input_PD.split(GROUPS), target_P.split(GROUPS), strict=True))


def test_groups_whose_losses_have_different_derivatives_are_refused() -> None:
    *leaves, target_P = operands()
    for factors in ((1.0, 2.0), (1.0, None)):
        losses = linear_cross_entropy(*leaves, target_P, groups=(20, 17))[:2]
        asked = [factor * loss for factor, loss in zip(factors, losses, strict=True) if factor is not None]
        with pytest.raises(AssertionError, match="losses"):
            torch.stack(asked).sum().backward()


def test_a_derivative_that_is_no_number_is_the_same_as_itself() -> None:
    *leaves, target_P = operands()
    first, second, *_ = linear_cross_entropy(*leaves, target_P, groups=(20, 17))
    ((first + second) * float("nan")).backward()
    assert leaves[0].grad is not None and leaves[0].grad.isnan().all()
