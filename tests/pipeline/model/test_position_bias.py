"""The gated relative position bias equals its definitions: T5's buckets, both published gates, attention by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_block_mask
from transformers.models.t5.modeling_t5 import T5Attention

from pipeline.data.packing import pack
from pipeline.model import attention, encoder, flexible_attention, position_bias
from pipeline.model.attention import attend
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.position_bias import Distances, Gate, PositionBias, Relative, bucket
from pipeline.settings.sizes import count_parameters
from pipeline.weights.consolidate import hugging_face_parts
from pipeline.weights.hugging_face import build_encoder, check_plain, write_config

HEADS, WIDTH = 2, 16


@pytest.fixture
def relative(sizes: EncoderConfig) -> Encoder:
    torch.manual_seed(3)
    encoder = Encoder(replace(sizes, gated_relative=True, init_std=0.3))
    for layer in encoder.layers:
        nn.init.normal_(layer.gate.scale)
        nn.init.normal_(layer.gate.gates.bias)
    return encoder


def test_buckets_are_t5_s() -> None:
    offset_O = torch.arange(-600, 601)
    theirs = T5Attention._relative_position_bucket(offset_O, True, position_bias.BUCKETS, position_bias.FARTHEST)
    assert torch.equal(bucket(offset_O), theirs)


def test_the_gate_is_xlm_e_s_and_wavlm_s() -> None:
    gate, query_TD = Gate(WIDTH, HEADS).double(), torch.randn(9, WIDTH, dtype=torch.double)
    nn.init.normal_(gate.scale)
    nn.init.normal_(gate.gates.bias)
    found_TH = gate(query_TD)
    u_D, v_D = gate.gates.weight
    for head, query_TK in enumerate(query_TD.view(9, HEADS, -1).unbind(1)):
        update_T = torch.sigmoid(query_TK @ u_D + gate.gates.bias[0])
        reset_T = torch.sigmoid(query_TK @ v_D + gate.gates.bias[1])
        d = 0.7
        xlm_e_T = d + update_T * d + (1 - update_T) * gate.scale[head] * reset_T * d
        torch.testing.assert_close(found_TH[:, head] * d, xlm_e_T, rtol=1e-12, atol=1e-12)
        a_T, b_T = 1 - update_T, reset_T
        torch.testing.assert_close(found_TH[:, head], a_T * (b_T * gate.scale[head] - 1) + 2, rtol=1e-12, atol=1e-12)


def test_without_scale_and_with_a_closed_gate_d_is_added_as_it_is() -> None:
    gate = Gate(WIDTH, HEADS)
    with torch.no_grad():
        gate.scale.zero_()
        gate.gates.bias[0] = -100.0
    torch.testing.assert_close(gate(torch.randn(5, WIDTH)), torch.ones(5, HEADS))


def by_hand(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], bias: PositionBias) -> Tensor:
    """Token by token, in the tensors' own precision; [T, D]."""
    rows, first, middle = [], 0, bias.distance_HO.shape[1] // 2
    for length in lengths:
        for i in range(first, first + length):
            mixed = []
            for head in range(HEADS):
                part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
                scores = torch.stack(
                    [
                        query[i, part] @ key[j, part] / (WIDTH / HEADS) ** 0.5
                        + bias.gate_TH[i, head] * bias.distance_HO[head, j - i + middle]
                        for j in range(first, first + length)
                    ]
                )
                mixed.append(scores.softmax(0) @ value[first : first + length, part])
            rows.append(torch.cat(mixed))
        first += length
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attention_adds_the_bias_to_the_scores_of_every_sequence(dtype: torch.dtype) -> None:
    lengths = [3, 1, 12, 9, 5]
    packed = pack([[4] * length for length in lengths])
    sides = [torch.randn(packed.tokens, WIDTH, dtype=dtype, requires_grad=True) for _ in range(3)]
    distances = Distances(HEADS).to(dtype)
    bias = PositionBias(distances(packed.longest), torch.rand(packed.tokens, HEADS, dtype=dtype) + 1)
    found_TD = attend(*sides, packed, HEADS, 0.0, bias)
    wide = PositionBias(bias.distance_HO.double(), bias.gate_TH.double())
    expected_TD = by_hand(*(side.double() for side in sides), lengths, wide)
    tolerance = 1e-9 if dtype == torch.float64 else 3e-2
    torch.testing.assert_close(found_TD.double(), expected_TD, rtol=tolerance, atol=tolerance)
    leaves = [*sides, distances.table.weight]
    if dtype == torch.float64:
        losses = [mixed_TD.square().sum() for mixed_TD in (found_TD, expected_TD)]
        ours, theirs = (torch.autograd.grad(loss, leaves, retain_graph=True) for loss in losses)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        without_gradient_TD = attend(*sides, packed, HEADS, 0.0, bias)
    torch.testing.assert_close(without_gradient_TD, found_TD, rtol=tolerance, atol=tolerance)


LENGTHS = [[3, 1, 130, 9, 200, 5], [128, 128, 1], [300], [64, 64, 127, 2, 127]]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_blocks_are_those_with_a_sequence_in_common(lengths: list[int]) -> None:
    packed = pack([[4] * length for length in lengths])
    blocks = flexible_attention.blocks_of(packed)
    sequence_T = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    together_TT = sequence_T[:, None] == sequence_T
    theirs = create_block_mask(blocks.mask_mod, None, None, packed.tokens, packed.tokens, device="cpu")
    size = flexible_attention.BLOCK
    count = math.ceil(packed.tokens / size)
    padded = torch.zeros(count * size, count * size, dtype=torch.bool)
    padded[: packed.tokens, : packed.tokens] = together_TT
    needed_QK = padded.view(count, size, count, size).any(3).any(1)
    assert torch.equal(blocks.to_dense()[0, 0].bool(), needed_QK)
    assert torch.equal(theirs.to_dense()[0, 0].bool(), needed_QK), "PyTorch finds the same by looking at all pairs"
    token_T = torch.arange(packed.tokens)
    assert torch.equal(blocks.mask_mod(token_T, token_T, token_T[:, None], token_T), together_TT)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_flexible_attention_is_attention_in_groups(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """By all scores in memory: PyTorch compiles it for GPUs alone, and refuses its gradient elsewhere."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *sides: None)
    packed = pack([[4] * length for length in lengths])
    sides = [torch.randn(packed.tokens, WIDTH, requires_grad=True) for _ in range(3)]
    distances, gate_TH = Distances(HEADS), (torch.rand(packed.tokens, HEADS) + 1).requires_grad_()
    found = []
    for blocks in (flexible_attention.blocks_of(packed), None):
        bias = Relative(distances(packed.longest), blocks).gated(gate_TH)
        mixed_TD = attend(*sides, packed, HEADS, 0.0, bias)
        found.append(
            [mixed_TD, *torch.autograd.grad(mixed_TD.square().sum(), [*sides, gate_TH, distances.table.weight])]
        )
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_an_encoder_in_half_precision_on_a_gpu_has_blocks(relative: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, asked = pack([[0, 5, 6, 7, 2], [0, 9, 2]]), []
    expected_TD = relative(packed)

    def without_padding(hidden_TD: Tensor, heads: int, dropout: float) -> bool:
        asked.append((hidden_TD.dtype, heads, dropout))
        return True

    def attend_by_blocks(*sides: Any) -> Tensor:
        by_blocks.append(len(sides[0]))
        return flexible_attention.attend_by_blocks(*sides)

    by_blocks: list[int] = []
    monkeypatch.setattr(encoder, "without_padding", without_padding)
    monkeypatch.setattr(attention, "attend_by_blocks", attend_by_blocks)
    with torch.no_grad():
        torch.testing.assert_close(relative(packed), expected_TD, rtol=1e-4, atol=1e-5)
    assert asked == [(torch.float32, relative.config.heads, relative.config.dropout)], "once for all layers"
    assert by_blocks == [packed.tokens] * relative.config.layers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_flexible_attention_by_its_kernel_is_attention_in_groups(lengths: list[int]) -> None:
    packed = pack([[4] * length for length in lengths]).to(torch.device("cuda"))
    sides = [torch.randn(packed.tokens, 128, device="cuda", dtype=torch.float16, requires_grad=True) for _ in range(3)]
    distances = Distances(HEADS).cuda().half()
    gate_TH = (torch.rand(packed.tokens, HEADS, device="cuda", dtype=torch.float16) + 1).requires_grad_()
    found = []
    for blocks in (flexible_attention.blocks_of(packed), None):
        bias = Relative(distances(packed.longest), blocks).gated(gate_TH)
        mixed_TD = attend(*sides, packed, HEADS, 0.0, bias)
        loss = mixed_TD.float().square().sum()
        found.append([mixed_TD, *torch.autograd.grad(loss, [*sides, gate_TH, distances.table.weight])])
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


def test_hidden_states_do_not_depend_on_the_batch_and_every_parameter_learns(relative: Encoder) -> None:
    ids = [[0, *range(4, 4 + length), 2] for length in (30, 3, 11)]
    joined_TD = relative(pack(ids))
    alone_TD = torch.cat([relative(pack([one])) for one in ids])
    torch.testing.assert_close(joined_TD, alone_TD, rtol=1e-4, atol=1e-5)
    joined_TD.square().sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for parameter in relative.parameters()
        if parameter.dim() > 1
    )
    counted = count_parameters(relative.config, 0)["total"]
    assert counted == sum(parameter.numel() for parameter in relative.parameters())


def test_with_a_table_of_zeros_it_is_the_encoder_without(relative: Encoder, sizes: EncoderConfig) -> None:
    plain, packed = Encoder(sizes), pack([[0, 5, 6, 7, 2], [0, 9, 2]])
    relative.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.allclose(relative(packed), plain(packed), atol=1e-3)
    nn.init.zeros_(relative.distances.table.weight)
    torch.testing.assert_close(relative(packed), plain(packed), rtol=1e-5, atol=1e-5)
    assert {name for name, _ in relative.named_parameters()} > {name for name, _ in plain.named_parameters()}


def test_a_checkpoint_s_weights_are_read_with_it_and_no_folder_of_hugging_face_is_written(relative: Encoder) -> None:
    state = hugging_face_parts(
        {f"encoder.{name}": tensor for name, tensor in relative.state_dict().items()}, Path("run")
    )
    read, packed = build_encoder(relative.config, state, Path("run")), pack([[0, 5, 6, 7, 2]])
    assert torch.equal(read(packed), relative(packed))
    with pytest.raises(
        ValueError, match=r"^run: has a gated relative position bias \(model\.positions\), which neither"
    ):
        check_plain(relative.config, Path("run"))
    with pytest.raises(AssertionError):
        write_config(relative.config)
