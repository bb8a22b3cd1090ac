"""A run that was killed, told to stop or out of time leaves a whole checkpoint and goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.checkpoints import checkpoint
from tests.end_to_end.conftest import REPOSITORY, TRAIN, Running, free_port

STEPS, SAVED = 20, 10
RANKS = 2
# Steps long enough that a run can be killed a few of them after a checkpoint.
SETTINGS = (f"run.steps={STEPS}", f"run.save_every={SAVED}", "batch.mono=32", "batch.pairs=128")

pytestmark = pytest.mark.launch

ReadMetrics = Callable[[Path, str], dict[int, dict[str, Any]]]


def sealed(run: Path, step: int) -> bool:
    return (checkpoint.folder_of(run) / checkpoint.tag_of(step) / checkpoint.MANIFEST).exists()


def losses(lines: dict[int, dict[str, Any]]) -> dict[int, dict[str, float]]:
    """What a step's line of metrics says of the model, the timings left out."""
    keys = ("mlm_loss", "tlm_loss", "dwa_loss", "dwa_links_per_pair", "gradient_norm", "lr")
    return {step: {key: line[key] for key in keys} for step, line in lines.items()}


def test_run_that_was_killed_continues_with_the_straight_run_s_losses(
    corpus: Any, launcher: Any, read_metrics: ReadMetrics, tmp_path: Path
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    beside = launcher.deepspeed(RANKS, TRAIN, "--config", corpus.config, *SETTINGS, f"run.out={straight}")
    running = launcher.deepspeed(RANKS, TRAIN, "--config", corpus.config, *SETTINGS, f"run.out={killed}")
    running.wait_for(lambda: sealed(killed, SAVED))
    running.kill()
    assert not sealed(killed, STEPS), "it was killed too late to show anything"
    done = beside.wait()
    assert done.code == 0, done.output

    resumed = launcher.train(RANKS, corpus.config, "--resume", "auto", *SETTINGS, f"run.out={killed}")
    assert resumed.code == 0, resumed.output
    assert f"continues from {checkpoint.folder_of(killed) / checkpoint.tag_of(SAVED)}" in resumed.output
    assert f"step {SAVED}/{STEPS}" not in resumed.output
    expected, found = (losses(read_metrics(run, "train")) for run in (straight, killed))
    assert list(expected) == list(range(1, STEPS + 1))
    assert found == expected


def test_sigterm_to_one_rank_saves_the_step_that_was_reached_and_ends_all_with_0(
    corpus: Any, launcher: Any, read_metrics: ReadMetrics, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("--config", corpus.config, "run.steps=100000", "run.save_every=100000", f"run.out={run}")
    running = launcher.deepspeed(RANKS, TRAIN, *arguments)
    metrics = run / "metrics.jsonl"
    running.wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3)
    processes = running.rank_processes()
    assert len(processes) == RANKS
    processes[1].send_signal(signal.SIGTERM)
    done = running.wait()
    assert done.code == 0, done.output

    last = max(read_metrics(run, "train"))
    assert sealed(run, last)
    assert f"stopped at step {last}: saved; continue with --resume auto" in done.output
    assert read_metrics(run, "end")[last]["finished"] is False
    checkpoint.read_info(checkpoint.folder_of(run) / checkpoint.tag_of(last))


@pytest.fixture
def by_launch_sh(corpus: Any, tmp_path: Path) -> Iterator[Running]:
    """A run in `run` that `./launch.sh train` started and that has made a step."""
    if not (REPOSITORY / ".venv" / ".installed-runtime").exists():
        pytest.skip("launch.sh would install into .venv first: run `./launch.sh setup`")
    run, log, port = tmp_path / "run", tmp_path / "log", free_port()
    command = [REPOSITORY / "launch.sh", "train", corpus.config, "--num_accelerators", RANKS, "--master_port", port]
    settings = ("run.steps=100000", "run.save_every=100000", f"run.out={run}")
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in (*command, *settings)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=tmp_path,
            start_new_session=True,
        )
    running = Running(process, log, port)
    try:
        running.wait_for(lambda: (run / "metrics.jsonl").exists() and '"train"' in (run / "metrics.jsonl").read_text())
        yield running
    finally:
        running.kill()


def nothing_is_left(running: Running, family: list[psutil.Process], seconds: float) -> bool:
    """Whether neither a process nor shared memory of the run is there after at most so long."""
    _, alive = psutil.wait_procs(family, seconds)
    return not alive and not list(Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{running.port}_*"))


def test_sigterm_to_launch_sh_saves_and_leaves_nothing_within_30_seconds(by_launch_sh: Running, tmp_path: Path) -> None:
    process, log, run = by_launch_sh.process, by_launch_sh.log, tmp_path / "run"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > RANKS and not nothing_is_left(by_launch_sh, family, 0)
    began = time.monotonic()
    process.terminate()
    process.wait(30)
    assert process.returncode == 0, log.read_text()
    assert nothing_is_left(by_launch_sh, family, max(began + 30 - time.monotonic(), 0))
    (step,) = (int(path.name.removeprefix("step_")) for path in checkpoint.folder_of(run).glob("step_*"))
    assert sealed(run, step)
    assert f"stopped at step {step}: saved" in log.read_text()


def test_launch_sh_does_not_take_the_death_of_deepspeed_s_launcher_for_success(by_launch_sh: Running) -> None:
    process = by_launch_sh.process
    family = psutil.Process(process.pid).children(recursive=True)
    (launcher,) = (child for child in family if any("deepspeed_launcher" in word for word in child.cmdline()))
    assert not [child for child in family if "deepspeed.launcher.launch" in child.cmdline()], (
        "it starts the ranks itself"
    )
    launcher.kill()
    assert process.wait(30) == 128 + signal.SIGKILL
    assert "the job has ended: exit code 137 (SIGKILL)" in by_launch_sh.log.read_text()
    assert nothing_is_left(by_launch_sh, family, 30)


def test_ctrl_c_during_quickstart_saves_and_shows_no_traceback(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "quickstart", "--out", out],
            stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, start_new_session=True,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
        )  # fmt: skip
    running, metrics = Running(process, log, port=0), out / "run" / "metrics.jsonl"
    try:
        running.wait_for(lambda: metrics.exists() and '"train"' in metrics.read_text())
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) == 128 + signal.SIGINT, log.read_text()
        _, alive = psutil.wait_procs(family, 30)
        assert not alive
    finally:
        running.kill()
    assert list(checkpoint.folder_of(out / "run").glob(f"step_*/{checkpoint.MANIFEST}"))
    assert "Traceback" not in log.read_text()


def test_a_run_out_of_time_saves_and_ends_with_0(corpus: Any, launcher: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("--config", corpus.config, f"run.out={run}", "run.steps=100000", "run.time_limit_minutes=0.01")
    done = launcher.one_rank(*arguments)
    assert done.code == 0, done.output
    assert "run.time_limit_minutes = 0.01" in done.output
    assert "stopped at step 1: saved; continue with --resume auto" in done.output
    assert sealed(run, 1)


def test_runs_killed_at_random_moments_go_on_bit_for_bit() -> None:
    script = Path(__file__).parents[1] / "tools" / "kill_training.py"
    done = subprocess.run([sys.executable, str(script), "--rounds", "3"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the straight run's losses bit for bit" in done.stdout
