"""The batch file for Slurm, under a stand-in for srun and scontrol: a run is queued again until it has finished."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_kit import make_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
SRUN = """#!/usr/bin/env bash
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_LOCALID=0
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> {told}; fi
"""


@pytest.mark.launch
def test_slurm_job_is_requeued_until_it_has_finished(tmp_path: Path) -> None:
    config, told = make_corpus(tmp_path), tmp_path / "told"
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL.format(told=told))):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    settings = [f"data.path={tmp_path}/data", f"run.out={tmp_path}/run"]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'kernels'}",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "SLURM_SUBMIT_DIR": str(REPOSITORY),
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_JOB_ID": "77",
    }

    def turn(*more: str) -> str:
        command = ["bash", str(REPOSITORY / "docs" / "slurm" / "train.sbatch"), str(config), *settings, *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "not finished (exit code 0): requeued" in turn("run.time_limit_minutes=0.0001")
    assert told.read_text() == "requeue 77\n"
    assert "continues from" in turn()
    assert told.read_text() == "requeue 77\n", "a finished run asks for no other turn"
