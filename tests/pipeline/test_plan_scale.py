"""The plan's figures follow from its definitions; tests/cluster/measure_plan.py holds them against runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import load_config
from pipeline.plan_scale import Cluster, Work, memory, plan, sent_by_a_rank, work_of

BASE = Path(__file__).resolve().parents[2] / "pipeline" / "configs" / "xlm_align_base.yaml"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.chdir(BASE.parents[2])
    return work_of(load_config(BASE), 250002)


def test_base_has_the_parameters_of_the_model_that_is_built() -> None:
    from pipeline.build import build_model, build_objectives

    sizes = [
        "model.layers=2",
        "model.hidden=32",
        "model.heads=2",
        "model.feed_forward=64",
        "objectives.dwa.alignment_layer=1",
    ]
    config = load_config(BASE, [*sizes, f"deepspeed={BASE.parents[2]}/ds_configs/zero1_fp32.json"])
    model, _ = build_model(config, build_objectives(config), 300)
    built = sum(parameter.numel() for parameter in model.parameters())
    assert work_of(config, 300).parameters == pytest.approx(built, rel=0.01)


def test_a_single_rank_sends_nothing_and_holds_everything(base: Work) -> None:
    assert sum(sent_by_a_rank(base, 1).values()) == 0
    assert memory(base, 1)["optimizer"] == base.parameters * 12


@pytest.mark.parametrize(("stage", "times"), [(0, 2), (1, 3), (2, 2 * 8 + 1), (3, (1 + 2 + 10 / 12) * 8)])
def test_bytes_of_a_step_are_multiples_of_the_model(base: Work, stage: int, times: float) -> None:
    work = replace(base, stage=stage)
    assert sum(sent_by_a_rank(work, 64).values()) == pytest.approx(times * 63 / 64 * base.parameters * 2)


def test_more_ranks_need_less_memory_each_and_slower_links_more_time(base: Work) -> None:
    work = replace(base, stage=3)
    assert memory(work, 64)["weights"] * 8 == pytest.approx(memory(work, 8)["weights"])
    fast, slow = (plan(base, Cluster(8, 8, 150e12, link, 300e9, latency=0)) for link in (25e9, 2.5e9))
    assert slow.communication_seconds == pytest.approx(10 * fast.communication_seconds)
    assert slow.compute_seconds == fast.compute_seconds


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
