"""Train the trials of an experiment, some at a time; what has finished is not done again, what was stopped continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pipeline.experiments.plan import Experiment, Trial
from pipeline.quickstart import free_port

REPOSITORY = Path(__file__).resolve().parents[2]


def has_finished(trial: Trial) -> bool:
    """Whether a run has come to its last step."""
    metrics = trial.out / "metrics.jsonl"
    if not metrics.is_file():
        return False
    lines = metrics.read_text(encoding="utf-8").splitlines()
    try:
        return bool(lines) and json.loads(lines[-1]).get("finished", False) is True
    except ValueError:  # the last line of a run that was killed
        return False


def train_all(experiment: Experiment, trials: Sequence[Trial], jobs: int) -> None:
    """Train what has not finished, `jobs` at a time; ValueError when one fails, after those beside it have ended."""
    waiting = [trial for trial in trials if not has_finished(trial)]
    if len(waiting) < len(trials):
        print(f"{len(trials) - len(waiting)} of {len(trials)} runs have finished before", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_train, experiment, trial): trial for trial in waiting}
        for done in as_completed(running):
            try:
                done.result()
            except ValueError:
                pool.shutdown(cancel_futures=True)
                raise
            print(f"trained: {running[done].arm}, seed {running[done].seed}", flush=True)


def _train(experiment: Experiment, trial: Trial) -> None:
    trial.out.mkdir(parents=True, exist_ok=True)
    log = trial.out / "log.txt"
    command = ["deepspeed", "--num_accelerators", "1", "--master_port", str(free_port())]
    command += [str(REPOSITORY / "pipeline" / "train.py"), "--config", str(experiment.config), "--resume", "auto"]
    threads = {"OMP_NUM_THREADS": str(experiment.threads)}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    with log.open("a", encoding="utf-8") as written:
        done = subprocess.run(
            [*command, *trial.overrides],
            env={**os.environ, **threads, **path},
            stdout=written,
            stderr=written,
            check=False,
        )
    if done.returncode:
        raise ValueError(f"{trial.arm}, seed {trial.seed}: training failed; see {log}")
