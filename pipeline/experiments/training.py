"""Train the trials of an experiment, some at a time; what has finished is not done again, what was stopped continues."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from pipeline import shipped
from pipeline.cluster.finished import finished
from pipeline.experiments.plan import Experiment, Trial
from pipeline.host.process import SAFE_PATH, device_of, ranks_command, told_to_end_with_us
from pipeline.run_folder import CONFIG
from pipeline.settings.schema import Config, load_config
from pipeline.settings.sizes import longest_sequence
from pipeline.training.start_check import check_start
from pipeline.weights.opening import open_weights


def has_finished(experiment: Experiment, trial: Trial) -> bool:
    """Whether a run has come to its last step.

    Raises:
        ValueError: what lies in the trial's folder was trained with other settings.
    """
    kept = trial.out / CONFIG
    if not kept.is_file():
        return False
    run = load_config(kept)
    was, wants = (config.absolute().model_dump(mode="json") for config in (run, trial.config(experiment)))
    if was != wants:
        raise ValueError(
            f"{kept}: trained with other settings than {trial.arm} has now ({', '.join(_differing(was, wants))}); give "
            "another --out, or delete that run"
        )
    return finished(run)


def _differing(was: dict[str, Any], wants: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of the settings that differ."""
    names = []
    for name in was.keys() | wants.keys():
        before, after = was.get(name), wants.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            names += _differing(before, after, f"{prefix}{name}.")
        elif before != after:
            names.append(prefix + name)
    return sorted(names)


def check_start_of_all(experiment: Experiment, trials: Sequence[Trial], environment: MutableMapping[str, str]) -> None:
    """ValueError where a trial that is yet to be trained could not start; before any of them does."""
    device = device_of(environment)
    for trial in trials:
        if not has_finished(experiment, trial):
            check_start(trial.config(experiment), "auto", 1, device)


def longest_of(config: Config) -> int:
    """Tokens of the longest sequence that a trial's model takes, special tokens included."""
    init = config.model.init
    return longest_sequence(config) if init is None else open_weights(init, whole=False).sizes.longest


def train_all(experiment: Experiment, trials: Sequence[Trial], jobs: int) -> None:
    """Train what has not finished, `jobs` at a time; after a ValueError, Ctrl-C or SIGTERM no other begins."""
    waiting = [trial for trial in trials if not has_finished(experiment, trial)]
    if len(waiting) < len(trials):
        print(f"{len(trials) - len(waiting)} of {len(trials)} runs have finished before", file=sys.stderr)
    processes: list[subprocess.Popen[bytes]] = []
    with told_to_end_with_us(processes), ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_train, experiment, trial, processes): trial for trial in waiting}
        try:
            for done in as_completed(running):
                done.result()
                print(f"trained: {running[done].arm}, seed {running[done].seed}", file=sys.stderr)
        finally:
            pool.shutdown(cancel_futures=True)


def _train(experiment: Experiment, trial: Trial, processes: list[subprocess.Popen[bytes]]) -> None:
    """processes: where the one that trains is to be found."""
    trial.out.mkdir(parents=True, exist_ok=True)
    log = trial.out / "log.txt"
    command = [
        *ranks_command(1),
        str(shipped.PACKAGE / "train.py"),
        "--config",
        str(experiment.config),
        "--resume",
        "auto",
    ]
    threads = {"OMP_NUM_THREADS": str(experiment.threads)}
    with log.open("a", encoding="utf-8") as written:
        environment = {**os.environ, **threads, **SAFE_PATH}
        with subprocess.Popen([*command, *trial.overrides], env=environment, stdout=written, stderr=written) as process:
            processes.append(process)
    if process.returncode:
        raise ValueError(f"{trial.arm}, seed {trial.seed}: training failed; see {log}")
    if not has_finished(experiment, trial):
        raise ValueError(
            f"{trial.arm}, seed {trial.seed}: was stopped before its last step; the same command continues"
        )
