"""The kernels over logits, in Triton's interpreter: their definition, on odd sizes, in every dtype, with poisoned memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model import linear_cross_entropy
from pipeline.model.cross_entropy import (
    GRADIENT_BLOCK,
    LOSS_BLOCK,
    add_logit_gradients,
    logit_gradients_by_tensors,
    padded,
    padded_bias,
    row_losses,
    row_losses_by_tensors,
)
from pipeline.model.linear_cross_entropy import equal_rows, smoothed_cross_entropy
from tests.conftest import ROOT

pytest.importorskip("triton")

SIZES = [(1, 1), (9, 101), (5, GRADIENT_BLOCK + 1), (2, LOSS_BLOCK + 37)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def logits_of(rows: int, words: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    logits_CU = torch.full((rows, padded(words)), float("nan"), dtype=dtype)
    logits_CU[:, :words] = 5 * torch.randn(rows, words)
    target_C = torch.randint(words, (rows,))
    logits_CU[0, target_C[0]] = 40  # one that is right
    return logits_CU, torch.randn(words), target_C


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "words"), SIZES)
def test_kernels_are_what_tensors_say_in_float64(rows: int, words: int, dtype: torch.dtype, smoothing: float) -> None:
    logits_CU, bias_V, target_C = logits_of(rows, words, dtype)
    bias_V = bias_V.to(dtype)
    bias_U, wide_U = padded_bias(bias_V), padded_bias(bias_V).double()
    found = row_losses(logits_CU, bias_U, target_C, words, bool(smoothing))
    wanted = row_losses_by_tensors(logits_CU, wide_U, target_C, words, bool(smoothing))
    assert torch.equal(found.hit_C, wanted.hit_C) and found.hit_C[0] == 1
    for name in ("log_sum_C", "target_C", "mean_C"):
        torch.testing.assert_close(getattr(found, name).double(), getattr(wanted, name), rtol=1e-6, atol=3e-6)

    gradient_CU = torch.full_like(logits_CU, float("nan"), dtype=torch.float32)
    sum_U = torch.ones(padded(words))
    add_logit_gradients(logits_CU, bias_U, target_C, found.log_sum_C, words, smoothing, 8.0, gradient_CU, sum_U)
    expected_CV = logit_gradients_by_tensors(logits_CU, wide_U, target_C, words, smoothing)
    torch.testing.assert_close(gradient_CU[:, :words].double(), 8 * expected_CV, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sum_U[:words].double(), 1 + expected_CV.sum(dim=0), rtol=1e-5, atol=3e-6)


def test_the_definition_is_pytorchs_cross_entropy() -> None:
    logits_CU, bias_V, target_C = logits_of(7, 101, torch.float64)
    bias_U = padded_bias(bias_V).double()
    value_CV = (logits_CU[:, :101] + bias_U[:101]).requires_grad_()
    loss = F.cross_entropy(value_CV, target_C, reduction="sum", label_smoothing=0.2)
    found = row_losses_by_tensors(logits_CU, bias_U, target_C, 101, True)
    ours = found.log_sum_C - 0.8 * found.target_C - 0.2 * found.mean_C
    torch.testing.assert_close(ours.sum(), loss)
    (expected_CV,) = torch.autograd.grad(loss, value_CV)
    torch.testing.assert_close(logit_gradients_by_tensors(logits_CU, bias_U, target_C, 101, 0.2), expected_CV)


def test_of_equal_logits_the_first_is_the_argmax() -> None:
    logits_CU = torch.zeros(3, padded(70))
    logits_CU[:, [5, 9]] = 2.0
    found = row_losses(logits_CU, padded_bias(torch.zeros(70)), torch.tensor([5, 9, 0]), 70, False)
    assert found.hit_C.tolist() == [1, 0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite_makes_its_row_alone_not_finite(value: float) -> None:
    logits_CU, bias_V, target_C = logits_of(3, 101, torch.float32)
    logits_CU[1, 7] = value
    found = row_losses(logits_CU, padded_bias(bias_V), target_C, 101, False)
    assert (found.log_sum_C - found.target_C).isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
@pytest.mark.parametrize("rows", [0, 300])
def test_the_loss_by_kernels_is_cross_entropy_of_whole_logits(
    rows: int, dtype: torch.dtype, tolerance: float, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_cross_entropy, "takes_kernels", lambda _: True)
    shapes = (rows, 24), (101, 24), (101,)
    leaves = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    target_P = torch.randint(101, (rows,))
    loss, plain, correct = smoothed_cross_entropy(*leaves, target_P, smoothing, 130 * 101)
    logits_PV = F.linear(*(leaf.double() for leaf in leaves))
    expected = F.cross_entropy(logits_PV, target_P, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(
        plain.double(), F.cross_entropy(logits_PV, target_P, reduction="sum"), rtol=tolerance, atol=0
    )
    assert abs(int(correct) - int((logits_PV.argmax(dim=1) == target_P).sum())) <= rows * tolerance
    theirs = torch.autograd.grad(3 * expected, leaves)
    for our, their in zip(torch.autograd.grad(3 * loss, leaves), theirs, strict=True):
        assert our.dtype == dtype and our.shape == their.shape
        assert (our.double() - their.double()).norm() <= 2 * tolerance * their.double().norm()


def test_chunks_are_equal_and_whole_tiles() -> None:
    assert [equal_rows(rows, 1000) for rows in (0, 1, 128, 129, 896, 897, 1800, 2689)] == [
        *(128, 128, 128, 256, 896, 512, 640, 768)
    ]
    assert equal_rows(500, 1) == 128


def test_kernels_compile_for_gpus_and_read_and_write_16_bytes_at_a_time() -> None:
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wide = json.loads(done.stdout)
    assert {name: of["ld"] for name, of in wide.items()} == dict.fromkeys(wide, True)
    assert all(of["st"] for name, of in wide.items() if "row_losses" not in name)
