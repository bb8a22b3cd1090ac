"""Attention over sequences of any lengths: what PyTorch's own, which runs on GPUs only, is given, and who gets it."""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.benchmark.step_count import Counting
from pipeline.data.crossing import Crossing, cross
from pipeline.data.packing import Packed, pack
from pipeline.model import attention

HEADS, WIDTH = 2, 32


@pytest.fixture
def packed() -> Packed:
    return pack([[4] * length for length in (3, 1, 40, 12, 5)])


@pytest.fixture
def source() -> Packed:
    return pack([[4] * length for length in (9, 2, 33)])


@pytest.fixture
def crossing(source: Packed, packed: Packed) -> Crossing:
    return cross(source, packed, np.array([2, 0, 2, 1, 0]))


def one_by_one(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
) -> tuple[Tensor, None]:
    """Attention sequence by sequence, called as `flash_attention` is."""
    assert dropout_p == 0 and not return_debug_mask
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == int(cu_seq_q.diff().max()) and max_k == int(cu_seq_k.diff().max())
    assert len(query_THD) == cu_seq_q[-1] and len(key_THD) == len(value_THD) == cu_seq_k[-1]
    parts = []
    for query, key in zip(cu_seq_q.unfold(0, 2, 1).tolist(), cu_seq_k.unfold(0, 2, 1).tolist(), strict=True):
        sides = [query_THD[slice(*query)], key_THD[slice(*key)], value_THD[slice(*key)]]
        mixed = F.scaled_dot_product_attention(*(side.transpose(0, 1) for side in sides), is_causal=is_causal)
        parts.append(mixed.transpose(0, 1))
    return torch.cat(parts), None


@pytest.fixture
def both_ways(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Tensor]], None]:
    """A check that what is attended to is the same by groups and by lengths."""

    def check(mixed: Callable[[], Tensor]) -> None:
        by_groups = mixed()
        monkeypatch.setattr(attention, "flash_attention", one_by_one)
        monkeypatch.setattr(attention, "takes_variable_lengths", lambda *_: True)
        by_lengths = mixed()
        assert by_lengths.shape == by_groups.shape
        torch.testing.assert_close(by_lengths, by_groups, rtol=0, atol=1e-6)

    return check


@pytest.mark.parametrize("causal", [False, True])
def test_both_ways_give_the_same_mixtures(
    packed: Packed, both_ways: Callable[[Callable[[], Tensor]], None], causal: bool
) -> None:
    sides = [torch.randn(packed.tokens, WIDTH) for _ in range(3)]
    both_ways(lambda: attention.attend(*sides, packed, HEADS, 0.0, causal=causal))


def test_both_ways_take_the_same_from_sources(
    packed: Packed, source: Packed, crossing: Crossing, both_ways: Callable[[Callable[[], Tensor]], None]
) -> None:
    query_TD = torch.randn(packed.tokens, WIDTH)
    sides = [torch.randn(source.tokens, WIDTH) for _ in range(2)]
    both_ways(lambda: attention.attend_across(query_TD, *sides, packed, crossing, HEADS, 0.0))


def test_the_stand_in_takes_what_pytorch_takes() -> None:
    theirs = [argument.name for argument in attention.flash_attention.default._schema.arguments]
    ours = list(inspect.signature(one_by_one).parameters)
    places = {"cu_seq_q": "cum_seq_q", "cu_seq_k": "cum_seq_k"}
    assert [name.split("_")[0] for name in ours[:3]] == theirs[:3]
    assert [places.get(name, name) for name in ours[3:]] == theirs[3:10]


def test_pytorchs_attention_has_a_gradient_that_fills_nothing() -> None:
    with FakeTensorMode(), Counting() as counting:
        sides = [torch.empty(9, 2, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        bounds = torch.empty(4, dtype=torch.int32)
        mixed, *_ = attention.flash_attention(*sides, bounds, bounds, 5, 5, 0.0, True, False)
        torch.autograd.grad(mixed, sides, torch.empty_like(mixed))
    assert counting.work.counts == {"_flash_attention_forward": 1, "_flash_attention_backward": 1}


@pytest.mark.parametrize(
    ("device", "dtype", "head_width", "dropout", "expected"),
    [
        ("cuda", torch.float16, 64, 0.0, True),
        ("cuda", torch.bfloat16, 32, 0.0, True),
        ("cuda", torch.float32, 64, 0.0, False),
        ("cuda", torch.bfloat16, 64, 0.1, False),
        ("cuda", torch.bfloat16, 12, 0.0, False),
        ("cuda", torch.bfloat16, 512, 0.0, False),
        ("cpu", torch.bfloat16, 64, 0.0, False),
    ],
)
def test_half_precision_without_dropout_on_a_gpu_needs_no_groups(
    device: str, dtype: torch.dtype, head_width: int, dropout: float, expected: bool
) -> None:
    assert attention.takes_variable_lengths(device, dtype, head_width, dropout) is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", ["both", "causal", "across"])
def test_pytorch_s_own_equals_groups_forward_and_backward(
    packed: Packed, source: Packed, crossing: Crossing, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    device = torch.device("cuda")
    packed, crossing = packed.to(device), crossing.map(lambda tensor: tensor.to(device))
    lengths = [packed.tokens, *[source.tokens if how == "across" else packed.tokens] * 2]
    sides = [torch.randn(length, WIDTH, device=device, dtype=torch.float16) for length in lengths]
    answers = []
    for variable in (True, False):
        monkeypatch.setattr(attention, "takes_variable_lengths", lambda *_, variable=variable: variable)
        leaves = [side.clone().requires_grad_() for side in sides]
        if how == "across":
            mixed_TD = attention.attend_across(*leaves, packed, crossing, HEADS, 0.0)
        else:
            mixed_TD = attention.attend(*leaves, packed, HEADS, 0.0, causal=how == "causal")
        mixed_TD.float().square().sum().backward()
        answers.append([mixed_TD, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.04)])
def test_attention_by_products_is_attention_up_to_rounding(
    packed: Packed, dtype: torch.dtype, tolerance: float
) -> None:
    sides = [torch.randn(packed.tokens, WIDTH).to(dtype) for _ in range(3)]
    assert any(group.mask_G11L is None for group in packed.groups)
    assert any(group.mask_G11L is not None for group in packed.groups)
    with torch.no_grad():
        assert attention.takes_products("cpu", dtype, packed.longest)
        by_products = attention.attend(*sides, packed, HEADS, dropout=0.0)
    wanted = attention.attend(*(side.double() for side in sides), packed, HEADS, dropout=0.0)
    assert by_products.dtype == dtype
    torch.testing.assert_close(by_products.double(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [30.0, 1e4])
@torch.no_grad()
def test_scores_whose_exponentials_overflow_or_vanish_are_attended_to(packed: Packed, scale: float) -> None:
    query, key, value = (torch.randn(packed.tokens, WIDTH) for _ in range(3))
    sides = query * scale, key, value
    by_products = attention.attend(*sides, packed, HEADS, dropout=0.0)
    wanted = attention.attend(*(side.double() for side in sides), packed, HEADS, dropout=0.0)
    torch.testing.assert_close(by_products.double(), wanted, rtol=0, atol=scale * 1e-6)


@torch.no_grad()
def test_what_is_not_finite_stays_so_and_in_its_sequence(packed: Packed) -> None:
    sides = [torch.randn(packed.tokens, WIDTH) for _ in range(3)]
    sides[0][5] = torch.nan  # of the third sequence, [4, 44)
    mixed_TD = attention.attend(*sides, packed, HEADS, dropout=0.0)
    assert mixed_TD[5].isnan().all()
    assert mixed_TD.isfinite().all(dim=1).tolist() == [number != 5 for number in range(packed.tokens)]


def test_attention_by_products_is_for_the_cpu_without_gradient() -> None:
    assert not attention.takes_products("cpu", torch.bfloat16, 8), "gradients are wanted"
    with torch.no_grad():
        assert attention.takes_products("cpu", torch.float32, 96)
        assert not attention.takes_products("cpu", torch.float32, 97)
        assert not attention.takes_products("cpu", torch.float64, 8)
        assert not attention.takes_products("cuda", torch.bfloat16, 8)
