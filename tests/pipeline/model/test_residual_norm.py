"""On a GPU a residual's sum and its norm are one kernel, and layers over one input one product: values and gradients stay."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.benchmark.step_count import Counting
from pipeline.model import devices
from pipeline.model.linear import Linear, LinearGELU, joined_parameters, linears
from pipeline.model.residual_norm import ResidualNorm, add_and_norm

pytest.importorskip("triton")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would be given, in Triton's interpreter."""
    monkeypatch.setattr(devices, "on_gpu", lambda _: True)


def definition(kept_TD: Tensor, new_TD: Tensor, norm: ResidualNorm) -> Tensor:
    parameters = norm.weight.double(), norm.bias.double()
    return F.layer_norm(kept_TD.double() + new_TD.double(), norm.normalized_shape, *parameters, norm.eps)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("width", [2, 24, 100, 768])
def test_norm_of_a_sum_is_what_it_is_in_float64(width: int) -> None:
    norm = ResidualNorm(width, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    leaves = [torch.randn(7, width).requires_grad_() for _ in range(2)]
    ours, wanted = norm(*leaves), definition(*leaves, norm)
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-5)
    upstream_TD = torch.randn(7, width)
    trained = [*leaves, norm.weight, norm.bias]
    expected = torch.autograd.grad((wanted * upstream_TD).sum(), trained)
    torch.testing.assert_close(torch.autograd.grad((ours * upstream_TD).sum(), trained), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_half_precision_normalises_the_sum_that_it_keeps(dtype: torch.dtype, tolerance: float) -> None:
    left_TD, right_TD = (torch.randn(5, 100).to(dtype) for _ in range(2))
    weight_D, bias_D = torch.randn(100).to(dtype), torch.randn(100).to(dtype)
    summed_TD, normed_TD, mean_T1, rstd_T1 = add_and_norm(left_TD, right_TD, weight_D, bias_D, 1e-5)
    assert summed_TD.dtype == normed_TD.dtype == dtype
    # Triton's interpreter cuts bits off where a GPU rounds to bf16.
    torch.testing.assert_close(summed_TD, left_TD + right_TD, rtol=2**-7 if dtype is torch.bfloat16 else 0, atol=0)
    wide_TD = summed_TD.double()
    wanted_TD = F.layer_norm(wide_TD, (100,), weight_D.double(), bias_D.double(), 1e-5)
    torch.testing.assert_close(normed_TD.double(), wanted_TD, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(mean_T1.double(), wide_TD.mean(dim=1, keepdim=True), rtol=0, atol=1e-6)
    deviation_T1 = (wide_TD.var(dim=1, keepdim=True, unbiased=False) + 1e-5).rsqrt()
    torch.testing.assert_close(rstd_T1.double(), deviation_T1, rtol=1e-5, atol=0)


def test_with_dropout_and_on_a_cpu_it_is_pytorchs_norm() -> None:
    norm = ResidualNorm(24, eps=1e-5)
    kept_TD, new_TD = torch.randn(2, 9, 24)
    torch.manual_seed(3)
    dropped_TD = norm(kept_TD, new_TD, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropped_TD, F.layer_norm(kept_TD + F.dropout(new_TD, 0.5), (24,), norm.weight, norm.bias, 1e-5))
    assert torch.equal(
        norm.eval()(kept_TD, new_TD, 0.5), F.layer_norm(kept_TD + new_TD, (24,), norm.weight, norm.bias, 1e-5)
    )


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_over_one_input_are_one_product(frozen: bool) -> None:
    layers = [Linear(24, 16).double() for _ in range(3)]
    if frozen:
        torch.nn.ModuleList(layers).requires_grad_(False)
    input_TK = torch.randn(7, 24, dtype=torch.double, requires_grad=True)
    trained = [input_TK, *(parameter for layer in layers for parameter in layer.parameters() if not frozen)]
    upstream, of_kept_TK = torch.randn(3, 7, 16, dtype=torch.double), torch.randn(7, 24, dtype=torch.double)
    _, joined = joined_parameters([layers[:1], layers])
    for given in (None, joined):
        found, kept_TK = linears(input_TK, layers, given)
        wanted = [layer(input_TK) for layer in layers]
        torch.testing.assert_close(list(found), wanted)
        for residual in (True, False):
            ours, theirs = (
                torch.autograd.grad(
                    sum(
                        ((o * u).sum() for o, u in zip(outputs, upstream, strict=True)),
                        residual * (kept * of_kept_TK).sum(),
                    ),
                    trained,
                    retain_graph=True,
                )
                for outputs, kept in ((found, kept_TK), (wanted, input_TK))
            )
            torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("on_gpu")
def test_what_is_kept_beside_a_layer_gets_its_gradient_within_a_product() -> None:
    layer = LinearGELU(24, 16)
    kept, plain = (torch.randn(7, 24).requires_grad_() for _ in range(2))
    plain.data.copy_(kept.data)
    with Counting() as counting:
        raised_TN, kept_TK = layer(kept)
        (raised_TN.sum() + (kept_TK**2).sum()).backward()
    assert counting.work.counts["addmm"] == 2 and not counting.work.counts["add_"]
    (F.gelu(F.linear(plain, layer.weight, layer.bias)).sum() + (plain**2).sum()).backward()
    torch.testing.assert_close(kept.grad, plain.grad)
    with torch.no_grad():
        assert torch.equal(layer(kept)[0], F.gelu(F.linear(kept, layer.weight, layer.bias)))


@pytest.mark.usefixtures("on_gpu")
def test_weights_that_zero3_brings_one_layer_at_a_time_are_not_joined() -> None:
    layers = [Linear(24, 16) for _ in range(2)]
    for layer in layers:
        layer.weight.ds_id = 1  # type: ignore[attr-defined]
    called: list[Linear] = []
    for layer in layers:
        layer.register_forward_hook(lambda module, *_: called.append(module))
    assert joined_parameters([layers]) == [None]
    linears(torch.randn(3, 24), layers)
    assert called == layers
