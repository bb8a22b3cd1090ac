"""Linear layers by oneDNN: the products, their gradients, and who gets them."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model import devices, linear

onednn = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="PyTorch was built without MKL or oneDNN",
)
T, K, N = 37, 48, 64


DTYPES = [torch.float32] + ([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])
"""oneDNN has no bf16 on processors without AVX-512, where it is never asked for it either."""


@pytest.fixture
def operands() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(T, K, generator=generator),
        torch.randn(N, K, generator=generator),
        torch.randn(N, generator=generator),
    )


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTH_IT", 1)
    monkeypatch.setattr(linear, "_mkl_falls_short", lambda: True)  # oneDNN is there without AVX-512 too


def with_gradients(function: object, *operands: Tensor) -> list[Tensor]:
    """The output and the gradients of a weighted sum of it."""
    leaves = [operand.clone().requires_grad_() for operand in operands]
    output = function(*leaves)  # type: ignore[operator]
    (output * torch.arange(output.numel(), dtype=output.dtype).view_as(output).cos()).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@onednn
@pytest.mark.parametrize("with_bias", [True, False])
def test_output_and_gradients_are_those_of_float64(
    always: None, operands: tuple[Tensor, Tensor, Tensor], with_bias: bool
) -> None:
    used = operands if with_bias else operands[:2]
    assert linear.takes_onednn(*operands[:2])
    found = with_gradients(linear.linear, *used)
    wanted = with_gradients(F.linear, *(operand.double() for operand in used))
    assert len(found) == len(wanted) == 1 + len(used)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-4)


@onednn
def test_padded_rows_are_multiplied_like_flat_ones(always: None, operands: tuple[Tensor, Tensor, Tensor]) -> None:
    input_TK, weight_NK, bias_N = operands
    layer = linear.PaddedLinear(K, N)
    with torch.no_grad():
        layer.weight.copy_(weight_NK)
        layer.bias.copy_(bias_N)
        found_GLN = layer(input_TK[:36].view(4, 9, K))
    torch.testing.assert_close(
        found_GLN.flatten(0, 1), F.linear(input_TK[:36], weight_NK, bias_N), rtol=1e-5, atol=1e-4
    )


@onednn
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("differentiate", [True, False])
def test_gelu_is_exact_gelu(
    always: None, operands: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, differentiate: bool
) -> None:
    rounded = [operand.to(dtype) for operand in operands]
    with torch.set_grad_enabled(differentiate):
        found = linear.linear_gelu(*rounded)
    wanted = F.gelu(F.linear(*(operand.double() for operand in rounded)))
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(found.double(), wanted, rtol=0.01, atol=tolerance)
    assert found.dtype == dtype


@onednn
def test_a_product_with_transposed_operands_is_mm(always: None, operands: tuple[Tensor, Tensor, Tensor]) -> None:
    left_KT, right_TN = operands[0].T, torch.randn(T, N, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(linear.product(left_KT, right_TN), left_KT @ right_TN, rtol=1e-5, atol=1e-4)


@onednn
def test_only_gradients_that_are_asked_for_are_made(always: None, operands: tuple[Tensor, Tensor, Tensor]) -> None:
    input_TK, weight_NK, bias_N = operands
    weight_NK.requires_grad_()
    linear.linear(input_TK, weight_NK, bias_N).sum().backward()
    assert weight_NK.grad is not None and input_TK.grad is None and bias_N.grad is None


@onednn
def test_no_rows_give_no_rows_and_no_gradient(always: None, operands: tuple[Tensor, Tensor, Tensor]) -> None:
    output, d_input, d_weight, d_bias = with_gradients(linear.linear, operands[0][:0], *operands[1:])
    assert output.shape == (0, N) and d_input.shape == (0, K)
    assert not d_weight.any() and not d_bias.any()


@onednn
def test_who_gets_it(operands: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    input_TK, weight_NK, _ = operands
    monkeypatch.setattr(linear, "_mkl_falls_short", lambda: True)
    assert not linear.takes_onednn(input_TK, weight_NK), "too small to be worth it"
    monkeypatch.setattr(linear, "WORTH_IT", T * K * N)
    assert linear.takes_onednn(input_TK, weight_NK)
    assert not linear.takes_onednn(input_TK[1:], weight_NK)
    assert not linear.takes_onednn(input_TK.double(), weight_NK.double())
    assert not linear.takes_onednn(input_TK.to("meta"), weight_NK.to("meta"))
    assert not linear.takes_onednn(input_TK[None], weight_NK)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not linear.takes_onednn(input_TK, weight_NK)
    monkeypatch.setattr(linear, "_mkl_falls_short", lambda: False)
    assert not linear.takes_onednn(input_TK, weight_NK)


def test_the_layer_is_nn_linear_with_the_same_names() -> None:
    ours, theirs = linear.Linear(K, N), nn.Linear(K, N)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    input_TK = torch.randn(T, K)
    assert torch.equal(ours(input_TK), theirs(input_TK))


MANY_SHAPES = """
import torch
from pipeline.model import linear

linear.WORTH_IT = 1
linear._mkl_falls_short = lambda: True
layer, mebibytes = linear.Linear(96, 384), []
for tokens in range(500, 700):
    layer(torch.randn(tokens, 96, requires_grad=True)).sum().backward()
    with open("/proc/self/status") as status:
        mebibytes.append(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS")))
print(mebibytes[-1] - mebibytes[50])
"""


@onednn
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_batch_sizes() -> None:
    printed = subprocess.run([sys.executable, "-c", MANY_SHAPES], capture_output=True, text=True, check=True).stdout
    assert float(printed) < 100, "without a bound it is nearly 400 MiB"


def test_the_first_product_bounds_the_caches_of_shapes_and_an_import_sets_nothing() -> None:
    script = """import os, torch
from pipeline.model import linear
print(*(os.environ.get(name) for name in linear.SHAPE_CACHES))
linear.linear(torch.ones(2, 2), torch.ones(2, 2))
print(*(os.environ.get(name) for name in linear.SHAPE_CACHES))"""
    environment = {name: value for name, value in os.environ.items() if name not in linear.SHAPE_CACHES}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "None", linear.SHAPES_KEPT, linear.SHAPES_KEPT]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_on_a_gpu_are_not_rounded_before_they_are_wide(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    batched = torch.bmm

    def as_on_gpu(left: Tensor, right: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
        return batched(left.float(), right.float()).to(out_dtype or left.dtype)

    leaves = [torch.randn(shape).to(dtype).requires_grad_() for shape in ((3, 5, 16), (3, 7, 16))]
    wanted = leaves[0].double() @ leaves[1].double().transpose(1, 2)
    rounded = linear.wide_scores(*leaves)
    monkeypatch.setattr(torch, "bmm", as_on_gpu)
    monkeypatch.setattr(devices, "on_gpu", lambda _: True)
    scores = linear.wide_scores(*leaves)
    assert scores.dtype == rounded.dtype == torch.float32
    assert (scores - wanted).abs().max() < 1e-5 < (rounded - wanted).abs().max()
    upstream = torch.randn(3, 5, 7)
    ours, theirs = (torch.autograd.grad((of * upstream).sum(), leaves) for of in (scores, wanted))
    tolerance = 4 * torch.finfo(dtype).eps
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == dtype and (our - their).norm() <= tolerance * their.norm()
