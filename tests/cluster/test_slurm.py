"""The batch file for Slurm, under a stand-in for srun and scontrol: a run is queued again until it has finished."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_kit import make_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > {told}.words
printf %s "$MLFLOW_TRACKING_TOKEN" > {told}.token
while [ "${1#-}" != "$1" ]; do if [ "$1" = -n ]; then shift; fi; shift; done
export SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_LOCALID=0
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> {told}; fi
"""


@dataclass
class Turn:
    """A folder with a corpus, and an environment in which srun and scontrol are stand-ins."""

    folder: Path
    config: Path
    told: Path
    environment: dict[str, str]

    def run(self, *command: object) -> str:
        words = [*map(str, command), f"data.path={self.folder}/data"]
        done = subprocess.run(words, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Turn:
    folder = tmp_path_factory.mktemp("slurm")
    config, told, tools = make_corpus(folder), folder / "told", folder / "tools"
    tools.mkdir()
    for name, script in (
        ("srun", SRUN.replace("{told}", str(told))),
        ("sinfo", "#!/bin/sh\n"),
        ("scontrol", SCONTROL.format(told=told)),
    ):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'kernels'}",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_JOB_ID": "77",
        "MLFLOW_TRACKING_TOKEN": "secret",
    }
    return Turn(folder, config, told, environment)


@pytest.mark.launch
def test_slurm_job_is_requeued_until_it_has_finished(turn: Turn) -> None:
    batch = ("bash", REPOSITORY / "docs" / "slurm" / "train.sbatch", turn.config, f"run.out={turn.folder}/run")
    assert "not finished (exit code 0): requeued" in turn.run(*batch, "run.time_limit_minutes=0.0001")
    assert turn.told.read_text() == "requeue 77\n"
    assert "continues from" in turn.run(*batch)
    assert turn.told.read_text() == "requeue 77\n", "a finished run asks for no other turn"


@pytest.mark.launch
def test_srun_starts_the_ranks_of_a_hostfile_without_ssh(turn: Turn) -> None:
    hosts = turn.folder / "hosts"
    hosts.write_text("localhost slots=1\nnode1 slots=1\n")
    launch = (
        sys.executable,
        "-m",
        "pipeline.cluster.launch",
        "train",
        turn.config,
        "--hostfile",
        hosts,
        "--launcher",
        "slurm",
    )
    assert "done" in turn.run(*launch, f"run.out={turn.folder}/in_allocation", "run.steps=2")
    words = turn.told.with_name("told.words").read_text()
    assert "--export=ALL," in words and "in_allocation" in words, "what srun was given"
    assert "secret" not in words and "MLFLOW" not in words
    assert turn.told.with_name("told.token").read_text() == "secret", "the ranks have it"
