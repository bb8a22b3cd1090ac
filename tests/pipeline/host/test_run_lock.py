"""One training at a time in a run's folder: a second is refused with who holds it, and a killed one holds nothing."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.host import run_lock
from pipeline.run_folder import LOCK
from pipeline.settings.schema import Config
from pipeline.training.start_check import check_folder

HOLDER = """import sys, time; from pathlib import Path; from pipeline.host import run_lock
run_lock.hold(Path(sys.argv[1])); print("held", flush=True); time.sleep(600)"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that trains in tmp_path."""
    environment = {**os.environ, "XLM_ALIGN_JOB": "a-job"}
    started = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert started.stdout is not None and started.stdout.readline() == "held\n"
    yield started
    started.kill()
    started.wait()


@pytest.mark.parametrize("ask", [run_lock.hold, run_lock.check_free])
def test_a_second_training_is_told_who_holds_the_folder(ask, holder: subprocess.Popen, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another training writes there") as caught:
        ask(tmp_path)
    assert f"run.out = {tmp_path}" in str(caught.value)
    assert f"process {holder.pid} on {socket.gethostname()}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_killed_training_holds_nothing(holder: subprocess.Popen, tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    run_lock.check_free(tmp_path)
    run_lock.hold(tmp_path)
    run_lock.hold(tmp_path)  # by the same process, as often as it likes


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    run_lock.check_free(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_lock_of_an_ended_job_is_forgotten_and_of_no_other(holder: subprocess.Popen, tmp_path: Path) -> None:
    run_lock.forget(tmp_path, "another-job")
    with pytest.raises(ValueError, match="another training"):
        run_lock.check_free(tmp_path)
    run_lock.forget(tmp_path, "a-job")
    assert not (tmp_path / LOCK).exists()
    run_lock.hold(tmp_path)


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    run_lock.hold(tmp_path)
    assert "its file system has no locks" in capsys.readouterr().err


def test_a_second_start_is_refused_before_it_has_ranks(holder: subprocess.Popen, tmp_path: Path) -> None:
    config = Config.model_validate({"data": {"path": "d"}, "run": {"out": tmp_path}, "deepspeed": "z.json"})
    with pytest.raises(ValueError, match=f"another training writes there .process {holder.pid} on "):
        check_folder(config, "auto")
