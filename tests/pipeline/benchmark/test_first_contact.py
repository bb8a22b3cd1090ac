"""`pipeline/benchmark/gpu_checks.py`, as far as a machine without a GPU can tell: what it compares, and what it leaves out."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.benchmark import gpu_checks

SCRIPT = Path(gpu_checks.__file__)


def line(step: int, loss: float, speed: float) -> dict[str, float]:
    losses = {f"{name}_loss": loss / 3 for name in ("mlm", "tlm", "dwa")}
    timings = {"tokens_per_second": speed, "seconds_per_step": 1.0, "seconds_label": 0.1, "peak_memory_gb": 2.0}
    return {"step": step, **losses, **timings, "utilisation": 0.5, "tflops_per_device": 400.0}


@pytest.fixture
def session(tmp_path: Path) -> gpu_checks.Session:
    return gpu_checks.Session(gpu_checks.DRY, tmp_path, tmp_path, time.monotonic() + 60)


def test_figures_are_those_of_the_runs(session: gpu_checks.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run(
        contender: str, config: Path, ranks: int, steps: int, settings: list[str], out: Path
    ) -> list[dict[str, float]]:
        started.append((contender, settings))
        fp32, ours = any("fp32" in setting for setting in settings), contender == gpu_checks.OURS
        return [line(step, 6.0 if fp32 else 3.0, 300.0 if ours else 100.0) for step in range(steps)]

    monkeypatch.setattr(gpu_checks, "run", run)
    shares = {
        entry["contender"]: entry["value"]
        for entry in gpu_checks.utilisation(session)
        if entry["name"] == "utilisation"
    }
    assert shares == {"ours, bf16": 0.5, "ours, fp32": 0.5}
    speeds = [
        entry for entry in gpu_checks.compare_with_straightforward(session) if "tokens_per_second" in entry["name"]
    ]
    assert [entry["ratio_to"] for entry in speeds if entry["contender"] == gpu_checks.OURS] == [
        {gpu_checks.BASELINE: 3.0}
    ]
    ends = {entry["contender"]: entry for entry in gpu_checks.curves(session)}
    assert ends["fp32, seed 1"]["value"] == pytest.approx(6.0)
    assert ends["fp32, seed 1"]["ratio_to"] == {"bf16, seed 1": 2.0, "bf16, seed 2": 2.0}
    assert {"run.seed=2"} <= {setting for _, settings in started for setting in settings}


def test_a_run_that_fails_is_told_with_its_output_and_the_others_go_on(
    session: gpu_checks.Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(
        contender: str, config: Path, ranks: int, steps: int, settings: list[str], out: Path
    ) -> list[dict[str, float]]:
        if contender == gpu_checks.BASELINE:
            (out / "run.log").write_text("out of memory", encoding="utf-8")
            raise ValueError("ended with exit code 1")
        return [line(step, 3.0, 300.0) for step in range(steps)]

    monkeypatch.setattr(gpu_checks, "run", run)
    assert {entry["contender"] for entry in gpu_checks.compare_with_straightforward(session)} == {gpu_checks.OURS}
    assert "FAILED straightforward, bf16, 4 steps: ended with exit code 1\nout of memory" in capsys.readouterr().out


def test_nothing_is_started_after_the_time_is_up(
    session: gpu_checks.Session, capsys: pytest.CaptureFixture[str]
) -> None:
    session.end = time.monotonic()
    assert gpu_checks.curves(session) == []
    assert capsys.readouterr().out.count("the time is up") == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a gpu")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: gpu_checks: no CUDA device; --dry-run does the same, small, on the CPU"
