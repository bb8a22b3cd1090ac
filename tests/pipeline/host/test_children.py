"""A SIGTERM to a command that runs others is told to those, which end as they like, and then it ends itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = """import signal, sys, time
from pathlib import Path
def save(number, frame):
    Path(sys.argv[1], "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
Path(sys.argv[1], f"began-{time.monotonic_ns()}").touch()
time.sleep(60)
"""
STAGE = """import sys
from pipeline.stages import run_stage
run_stage("a stage", [sys.executable, sys.argv[1], sys.argv[2]])
run_stage("the next", [sys.executable, sys.argv[1], sys.argv[2]])
"""
TRIALS = """import sys
from pathlib import Path
from pipeline.experiments import training
from pipeline.experiments.plan import Experiment, Trial
training.ranks_command = lambda ranks: [sys.executable, sys.argv[1], sys.argv[2]]
training.has_finished = lambda experiment, trial: False
experiment = Experiment(config="x.yaml", arms={"a": {}}, baseline="a", gold=["x"])
training.train_all(experiment, [Trial("a", seed, Path(sys.argv[2], str(seed)), ()) for seed in (1, 2)], 1)
"""


@pytest.mark.parametrize("parent", [STAGE, TRIALS], ids=["stage", "experiment"])
def test_a_sigterm_reaches_the_child_and_nothing_else_begins(parent: str, tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD, encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", parent, str(child), str(tmp_path)], start_new_session=True)
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("began-*")):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.terminate()  # itself alone, not its group
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        with pytest.raises(ProcessLookupError):  # nothing is left
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "saved").exists()
    assert len(list(tmp_path.glob("began-*"))) == 1
