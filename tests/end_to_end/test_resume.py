"""A run that was killed, or told to stop, leaves a whole checkpoint and goes on as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import checkpoint

TRAIN = Path(__file__).resolve().parents[2] / "pipeline" / "train.py"
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
