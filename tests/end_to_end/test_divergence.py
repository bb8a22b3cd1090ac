"""A loss, gradient or optimizer state that is not finite reaches no checkpoint, and ends the run with what it was made of."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.checkpoints import checkpoint
from pipeline.host.ports import free_port

WORKER = Path(__file__).with_name("divergence_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))

pytestmark = pytest.mark.launch

ReadMetrics = Callable[[Path, str], dict[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    out = tmp_path_factory.mktemp("divergence")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return out


def error_of(runs: Path, case: str) -> str:
    """The one line with which every rank ended the run."""
    lines = {(runs / f"{case}.error_{rank}").read_text(encoding="utf-8") for rank in range(worker.RANKS)}
    assert len(lines) == 1
    return lines.pop()


def last_checkpoint(runs: Path, case: str) -> int:
    """The step of the last checkpoint, which is whole."""
    found, warnings = checkpoint.find("auto", runs / case)
    assert found is not None and not warnings
    return checkpoint.read_info(found).step


def cases(fault: str) -> list[str]:
    return [case for case in worker.CASES if case.startswith(fault)]


@pytest.mark.parametrize("case", cases("loss"))
def test_infinite_losses_end_the_run_with_the_objective_and_the_samples(runs: Path, case: str) -> None:
    error = error_of(runs, case)
    # Step 5 is the third in a row; of its 16 pairs rank 1 has the last 8.
    assert "step 5: not finite 3 steps in a row (run.non_finite_steps)" in error
    assert "the loss of tlm on pairs 72-79;" in error and "mlm" not in error and "dwa" not in error
    assert "\n" not in error
    assert last_checkpoint(runs, case) == 4


@pytest.mark.parametrize("case", [case for case in cases("gradient") if "fp16" not in case])
def test_infinite_gradients_end_the_run_with_all_samples_of_the_step(runs: Path, case: str) -> None:
    assert "the gradient, though no loss, on mono 32-39 and pairs 64-79;" in error_of(runs, case)
    assert last_checkpoint(runs, case) == 4


def test_infinite_gradients_in_fp16_are_the_loss_scale_s_business(runs: Path, read_metrics: ReadMetrics) -> None:
    metrics = read_metrics(runs / "gradient_zero2_fp16", "train")
    assert list(metrics) == list(range(1, worker.STEPS + 1))
    assert metrics[worker.STEPS]["loss_scale"] < metrics[1]["loss_scale"]


@pytest.mark.parametrize("case", cases("twice"))
def test_fewer_steps_than_that_are_skipped_and_training_goes_on(
    runs: Path, read_metrics: ReadMetrics, case: str
) -> None:
    metrics = read_metrics(runs / case, "train")
    assert [metrics[step]["skipped_steps"] for step in metrics] == [0, 0, 1, 2, 2, 2, 2, 2]
    assert [metrics[step]["lr"] for step in (3, 4)] == [metrics[2]["lr"]] * 2, "a skipped step does not advance it"
    assert all(metrics[step]["tlm_loss"] < 10 for step in metrics if step not in (3, 4))
    assert last_checkpoint(runs, case) == worker.STEPS


@pytest.mark.parametrize("case", cases("state"))
def test_a_state_that_is_not_finite_is_not_saved(runs: Path, case: str) -> None:
    error = error_of(runs, case)
    assert "step 4: weights or optimizer states are not finite; they were not saved" in error and "\n" not in error
    assert last_checkpoint(runs, case) == 2


def test_what_zero_3_leaves_behind_the_weights_is_no_reason_not_to_save() -> None:
    """Its parts are of equal size, and the rest of the last one is what lay in memory: here NaN."""
    settings = Path(__file__).parents[2] / "ds_configs" / "zero3_fp32.json"
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER.with_name("padding_worker.py")), str(settings)],
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert "padded 0\n" in outputs[0] and "padded 4\n" in outputs[1]
