"""What is counted of a micro-step, on fake tensors, and what a model of its time makes of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.benchmark import step_model
from pipeline.benchmark.step_count import Counting, MicroStep, Work, bytes_a_logit, count_micro_step
from pipeline.benchmark.step_model import Device, Recipe, as_json, part_of
from pipeline.settings.sizes import EncoderConfig


def test_what_is_counted_are_calls_that_make_or_change_a_tensor_with_all_they_read_and_write() -> None:
    with FakeTensorMode(), Counting() as counting:
        left, right = torch.zeros(4, 8), torch.zeros(8, 2)
        left.T.flatten(0, 0)[1:].view(-1, 4)
        torch.mm(left, right).add_(1)
        torch.empty(5, 5)
        torch.mm(left, right, out=torch.empty(4, 2))
    assert [(launch.name, launch.moved, launch.flops) for launch in counting.work.launches] == [
        *(("zeros", 4 * 32, 0), ("zeros", 4 * 16, 0)),
        *(("mm", 4 * (32 + 16 + 8), 2 * 4 * 8 * 2), ("add_", 4 * 16, 0), ("mm", 4 * (32 + 16 + 8), 2 * 4 * 8 * 2)),
    ]


def test_a_logit_moves_14_bytes_and_what_the_products_of_its_gradient_read() -> None:
    moved = bytes_a_logit(rows=256, words=128, width=64)
    assert moved == {"mm": 4 + 2 + 2, "row_losses": 4, "add_logit_gradients": 4 + 2}
    assert bytes_a_logit(256, 128, 64, torch.float32) == {"mm": 4 + 4 + 4, "row_losses": 4, "add_logit_gradients": 8}


@pytest.fixture(scope="module")
def base() -> MicroStep:
    return Recipe(mono=2, pairs=2, vocabulary=4096).counted()


def test_a_micro_step_of_xlmr_base_launches_less_than_600_kernels(base: MicroStep) -> None:
    """Those that add gradients to what is there among them; what is launched does not depend on how much a micro-step holds."""
    assert 550 < base.launches(micro_steps=16) + base.accumulating <= 600
    parameters = sum(1 for name in base.backward.counts.elements() if name == "add_")
    assert base.accumulating == parameters > 200


def test_layers_are_counted_alike_and_labelling_stops_at_its_own() -> None:
    sizes = [EncoderConfig(vocab_size=128, hidden=64, heads=2, feed_forward=96, layers=n, positions=40) for n in (2, 3)]
    small, large = (count_micro_step(one, [20, 30], [(4, 5)], 2) for one in sizes)
    assert len(small.label.launches) == len(large.label.launches)
    more = large.forward.counts - small.forward.counts
    assert more == {"addmm": 4, "_flash_attention_forward": 1, "add_and_norm": 2, "gelu": 1}
    assert small.tokens == 62 and small.flops < large.flops


def test_a_call_takes_as_long_as_its_slowest_side() -> None:
    device = Device(copied=1e9, multiplied=1e12, attended=1e11, least=1e-6)
    with FakeTensorMode(), Counting() as counting:
        torch.mm(torch.zeros(1000, 1000), torch.zeros(1000, 1000))
    work = Work([launch for launch in counting.work.launches if launch.name == "mm"])
    assert part_of("", work, device, attention=0).milliseconds == pytest.approx(12)  # 12 MB, 2 GFLOP
    assert part_of("", work, Device(1e15, 1e12, 1e11, 1e-6), 0).milliseconds == pytest.approx(2)


def test_the_command_prints_the_model_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], base: MicroStep
) -> None:
    monkeypatch.setattr(Recipe, "counted", lambda _: base)
    step_model.benchmark(mono=2, pairs=2, micro_steps=4, called=8.0, json_file=tmp_path / "model.json")
    assert "not measured" in capsys.readouterr().out
    found: dict[str, Any] = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert [part["name"] for part in found["parts"]] == ["label", "forward", "backward", "update"]
    slower_host = as_json(Recipe(2, 2, micro_steps=4), Device(called=1e-3))
    assert slower_host["milliseconds_on_host"] > 100 * found["milliseconds_on_host"]
    assert slower_host["mfu"] < found["mfu"] < 1
