"""The plan's figures follow from its definitions; tests/cluster/measure_plan.py holds them against runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.estimate.dry_run import dry_run
from pipeline.estimate.scale import Cluster, ScaleWork, plan, sent_by_a_rank, work_of
from pipeline.settings.schema import load_config
from pipeline.settings.sizes import EncoderConfig, count_parameters
from tests.conftest import ROOT

BASE, XLM_E = (ROOT / "pipeline" / "configs" / f"{name}.yaml" for name in ("xlm_align_base", "xlm_e_base"))


RANKS = 64


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> ScaleWork:
    monkeypatch.chdir(BASE.parents[2])
    return work_of(load_config(BASE, ["batch.micro_steps=8"]), RANKS, pair_tokens=64)


def test_a_single_rank_sends_nothing(base: ScaleWork) -> None:
    assert sum(sent_by_a_rank(replace(base, ranks=1)).values()) == 0


@pytest.mark.parametrize(("stage", "times"), [(0, 2), (1, 3), (2, 2 * 8 + 1), (3, (1 + 2 + 10 / 12) * 8)])
def test_bytes_of_a_step_are_multiples_of_the_model(base: ScaleWork, stage: int, times: float) -> None:
    work = replace(base, stage=stage)
    assert sum(sent_by_a_rank(work).values()) == pytest.approx(times * 63 / 64 * base.parameters * 2)


@pytest.mark.parametrize(
    ("file", "gradients"),
    [("zero1_fp16", 2), ("zero1_bf16", 2), ("zero2_bf16", 4), ("zero3_bf16", 4), ("zero3_fp32", 4)],
)
def test_gradients_are_sent_in_the_precision_that_the_file_says(
    file: str, gradients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BASE.parents[2])
    work = work_of(load_config(BASE, [f"deepspeed=ds_configs/{file}.json"]), RANKS, pair_tokens=64)
    sent, times = sent_by_a_rank(work), {1: 2, 2: 2, 3: 1}[work.stage] * (work.micro_steps if work.stage > 1 else 1)
    assert sent["gradients"] == pytest.approx(times * 63 / 64 * work.parameters * gradients)


def test_replaced_tokens_bring_weights_for_every_pass_and_the_generator_to_draw(base: ScaleWork) -> None:
    work = replace(work_of(load_config(XLM_E), RANKS, pair_tokens=64), stage=3)
    sent, once = sent_by_a_rank(work), 63 / 64 * work.parameters * 2 * 16
    assert sent["weights"] == pytest.approx(2 * 2 * once) and sent["gradients"] == pytest.approx(once)
    layer, width, words = 7_087_872, 768, 250_002
    generator = (words + 514 + 3) * width + 4 * layer + width * (width + 3) + words
    assert sent["weights to label"] == pytest.approx(2 * generator / work.parameters * once)


def test_sentence_contrast_sends_a_step_s_keys_and_at_zero_3_the_weights_that_are_averaged() -> None:
    overrides = ["deepspeed=zero1_fp16", "data.path=nowhere", "batch.micro_steps=8"]
    work = work_of(load_config(BASE.with_name("infoxlm_base.yaml"), overrides), RANKS, pair_tokens=64)
    sent, without = (
        sent_by_a_rank(replace(work, stage=3, exchanged=keys, averaged=averaged))
        for keys, averaged in ((work.exchanged, work.averaged), (0, 0))
    )
    assert sent.keys() - without.keys() == {"sentences", "weights to average"}
    assert sent["sentences"] == pytest.approx(63 / 64 * 2048 * (768 * 4 + 16))
    encoder = replace(EncoderConfig(), layers=8)
    averaged = count_parameters(encoder, heads=768 * 768)["total"]
    assert sent["weights to average"] == pytest.approx(63 / 64 * averaged * 2)
    assert "weights to average" not in sent_by_a_rank(replace(work, stage=1))


def test_slower_links_need_more_time_and_computation_stays(base: ScaleWork) -> None:
    fast, slow = (plan(base, Cluster(8, 8, 150e12, link, 300e9, latency=0)) for link in (25e9, 2.5e9))
    assert slow.communication_seconds == pytest.approx(10 * fast.communication_seconds)
    assert slow.compute_seconds == fast.compute_seconds == pytest.approx(base.flops / (64 * 150e12))


def test_memory_tokens_and_operations_are_the_dry_run_s(base: ScaleWork) -> None:
    dry = dry_run(load_config(BASE, ["batch.micro_steps=8"]), "a100", RANKS, 0.4, 64)
    assert base.memory == dry.memory[1]
    assert base.tokens == sum(dry.tokens_per_step.values())
    assert base.flops == dry.flops_per_step


def test_a_batch_that_the_ranks_cannot_share_is_refused(base: ScaleWork) -> None:
    with pytest.raises(ValueError, match=r"batch\.mono = 2048 cannot be cut into 3 ranks"):
        work_of(load_config(BASE), 3, pair_tokens=64)


def test_plan_command_prints_and_writes_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BASE.parents[2])
    file = tmp_path / "plan.json"
    done = CliRunner().invoke(app, ["plan", str(BASE), "--nodes", "4", "--gpus", "8", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "279 M parameters, ZeRO 1, 4 hosts × 8 ranks" in done.output
    content = json.loads(file.read_text())
    assert content["plan"]["step_seconds"] == pytest.approx(
        content["plan"]["compute_seconds"] + content["plan"]["communication_seconds"]
    )
