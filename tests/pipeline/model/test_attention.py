"""Attention over sequences of any lengths: what PyTorch's own, which runs on GPUs only, is given, and who gets it."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.packing import Packed, pack
from pipeline.model import attention

HEADS, WIDTH = 2, 32


@pytest.fixture
def packed() -> Packed:
    return pack([[4] * length for length in (3, 1, 40, 12, 5)])


def one_by_one(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """`varlen_attn` as it is documented, sequence by sequence."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == int(cu_seq_q.diff().max()) and max_k == int(cu_seq_k.diff().max())
    parts = []
    for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        sides = (tensor[begin:end].transpose(0, 1) for tensor in (query_THD, key_THD, value_THD))
        parts.append(F.scaled_dot_product_attention(*sides).transpose(0, 1))
    return torch.cat(parts)


def test_both_ways_give_the_same_mixtures(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [torch.randn(packed.tokens, WIDTH) for _ in range(3)]
    by_groups = attention.attend(*sides, packed, HEADS, dropout=0.0)
    monkeypatch.setattr(attention, "varlen_attn", lambda: one_by_one)
    monkeypatch.setattr(attention, "takes_variable_lengths", lambda *_: True)
    by_lengths = attention.attend(*sides, packed, HEADS, dropout=0.0)
    assert by_lengths.shape == by_groups.shape
    torch.testing.assert_close(by_lengths, by_groups, rtol=0, atol=1e-6)


def test_the_stand_in_takes_what_pytorch_takes() -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="PyTorch before 2.10 has none")
    theirs = list(inspect.signature(varlen.varlen_attn).parameters)
    assert theirs[:7] == ["query", "key", "value", *list(inspect.signature(one_by_one).parameters)[3:]]


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
def test_pytorch_s_own_equals_groups_forward_and_backward(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed.to(torch.device("cuda"))
    sides = [torch.randn(packed.tokens, WIDTH, device="cuda", dtype=torch.float16) for _ in range(3)]
    answers = []
    for lengths in (True, False):
        monkeypatch.setattr(attention, "takes_variable_lengths", lambda *_, lengths=lengths: lengths)
        leaves = [side.clone().requires_grad_() for side in sides]
        mixed_TD = attention.attend(*leaves, packed, HEADS, dropout=0.0)
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
