"""What an objective keeps beside the weights outlives a kill, a resume, other ranks and another stage, to the last byte."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.checkpoints import checkpoint
from pipeline.training import replicated
from pipeline.weights.consolidate import full_state

WORKER = Path(__file__).with_name("objective_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))
CONTINUED = {**worker.ONE_RANK, **worker.TWO_RANKS}
LOSSES = tuple(f"{name}_loss" for name in ["mlm", "tlm", "dwa", "probe", "mrtd", "trtd", "sc", "tsc", "dae", "mt"])
DRAWN = ("mrtd_replaced", "trtd_replaced")
"""Shares that are the same to the last digit where the same words were drawn. Rounding alone may draw another one, rarely, and
the losses are then others, rightly; with this seed it does not. On a processor where it does, give the config another."""
TOLERANCE = 1e-5  # relative

pytestmark = pytest.mark.launch

ReadMetrics = Callable[[Path, str], dict[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    out = tmp_path_factory.mktemp("objective_state")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return out


def saved(run: Path, step: int) -> Path:
    return checkpoint.folder_of(run) / checkpoint.tag_of(step)


def state(file: Path) -> dict[str, Tensor]:
    found = torch.load(file, weights_only=True)
    assert isinstance(found, dict)
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the last byte."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and tensor.numpy().tobytes() == other[name].numpy().tobytes()
        for name, tensor in one.items()
    )


@pytest.mark.parametrize("case", worker.STRAIGHT)
def test_the_state_is_a_listed_file_of_each_checkpoint_and_every_step_changes_it(runs: Path, case: str) -> None:
    folders = [saved(runs / case, step) for step in (worker.SAVED, worker.STEPS)]
    for folder in folders:
        assert replicated.NAME in checkpoint.read_info(folder).files
    first, last = (state(folder / replicated.NAME) for folder in folders)
    assert sorted(first) == ["probe_queue.keys_QD", "probe_queue.next", "slow_probe.bias", "slow_probe.weight"]
    assert not torch.equal(first["slow_probe.weight"], last["slow_probe.weight"])
    assert not torch.equal(first["probe_queue.keys_QD"], last["probe_queue.keys_QD"])


@pytest.mark.parametrize("case", CONTINUED)
def test_every_rank_goes_on_with_the_bytes_that_were_saved(runs: Path, case: str) -> None:
    was, cut = CONTINUED[case]
    step = worker.STEPS if was.endswith("_as_1") else worker.SAVED
    expected = state(saved(runs / was, step) / replicated.NAME)
    for rank in range(cut.ranks):
        assert equal(state(runs / f"{case}.loaded_{rank}.pt"), expected)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_resumed_run_ends_with_the_straight_run_s_bytes(runs: Path, stage: int) -> None:
    straight, resumed = (
        saved(runs / name, worker.STEPS) for name in (f"straight_zero{stage}", f"straight_zero{stage}_again")
    )
    assert equal(state(straight / replicated.NAME), state(resumed / replicated.NAME))


def test_a_killed_run_ends_with_the_straight_run_s_bytes(runs: Path, read_metrics: ReadMetrics) -> None:
    assert equal(state(runs / "killed.loaded_1.pt"), state(saved(runs / "killed", worker.SAVED) / replicated.NAME))
    straight, killed = (saved(runs / name, worker.STEPS) / replicated.NAME for name in ("straight_zero2", "killed"))
    assert equal(state(straight), state(killed))
    lines = read_metrics(runs / "straight_zero2", "train"), read_metrics(runs / "killed", "train")
    for step, line in lines[0].items():
        assert {name: line[name] for name in LOSSES} == {name: lines[1][step][name] for name in LOSSES}


@pytest.mark.parametrize("case", [*worker.ONE_RANK, "straight_zero1_as_2", "straight_zero2_as_1"])
def test_losses_do_not_depend_on_the_cut(runs: Path, read_metrics: ReadMetrics, case: str) -> None:
    straight, found = (read_metrics(runs / name, "train") for name in (CONTINUED[case][0], case))
    assert list(found) == [worker.SAVED + 1, worker.STEPS]
    for step, line in found.items():
        for name in LOSSES:
            assert line[name] == pytest.approx(straight[step][name], rel=TOLERANCE), name
        for name in DRAWN:
            assert line[name] == straight[step][name] > 0


def test_the_other_objectives_losses_are_as_without_it_until_it_moves_the_weights(
    runs: Path, corpus: Any, launcher: Any, read_metrics: ReadMetrics, tmp_path: Path
) -> None:
    """Its view is drawn by a counter of its own, and its denominator is its own: the first losses and counts are the same."""
    arguments = (
        f"run.out={tmp_path}",
        "run.steps=1",
        "batch.micro_steps=2",
        *worker.WRITING,
    )
    done = launcher.one_rank("--config", corpus.config, *arguments)
    assert done.code == 0, done.output
    without, having = read_metrics(tmp_path, "train")[1], read_metrics(runs / "straight_zero2", "train")[1]
    for name in ("mlm_loss", "tlm_loss", "dwa_loss", "dwa_links_per_pair", "mlm_accuracy"):
        assert having[name] == pytest.approx(without[name], rel=1e-6)


@pytest.mark.parametrize("case", ["alone_zero2", "alone_zero3"])
def test_layers_that_no_loss_reads_get_zeros_at_every_stage(runs: Path, case: str) -> None:
    folders = [saved(runs / name, worker.STEPS) for name in ("alone_zero0", case)]
    plain, found = (full_state(folder, checkpoint.read_info(folder)) for folder in folders)
    assert plain.keys() <= found.keys() and any(name.startswith("encoder.layers.1.") for name in plain)
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_in_bf16_the_state_is_fp32_and_moves(runs: Path) -> None:
    found = saved(runs / "low", worker.LOW_STEPS)
    slow = state(found / replicated.NAME)["slow_probe.weight"]
    trained = full_state(found, checkpoint.read_info(found))["heads.probe.weight"]
    assert slow.dtype == torch.float32
    rounded = slow.bfloat16().float()
    assert (slow != rounded).float().mean() > 0.9, "between the steps of bf16"
    assert not torch.equal(slow, trained)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("objectives.probe.momentum=0.5", ("objectives.probe.momentum = 0.5", "trained with 0.999", "set it back")),
        ("objectives.probe=null", ("objectives.probe: switched off",)),
    ],
)
def test_its_settings_are_checked_when_a_run_goes_on(runs: Path, override: str, parts: tuple[str, ...]) -> None:
    (line,) = (runs / f"{override}.error").read_text(encoding="utf-8").splitlines()
    for part in parts:
        assert part in line
