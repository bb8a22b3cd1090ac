"""However a training's starter, terminal or launcher ends, its ranks save and stop, and nothing goes on unwatched."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

RANK = """import os, sys, time
from pathlib import Path
from pipeline.host.stop import StopFlag, outlive_terminal
outlive_terminal()
flag = StopFlag()
place = Path(__file__).parents[1]
(place / "began").touch()
while not flag.set:
    print("a step", flush=True)
    (place / "pulse").touch()
    time.sleep(0.02)
print("saving", file=sys.stderr)
(place / "saved").touch()
"""
LAUNCHER = """import os, subprocess, sys
sys.exit(subprocess.run([sys.executable, sys.argv[1]], env={**os.environ, "RANK": "0"}).returncode)"""
START = """import sys
from pipeline.cluster import this_host
from pipeline.cluster.options import parse
from pipeline.host.stop import outlive_terminal
outlive_terminal()
this_host.deepspeed_command = lambda *_: [sys.executable, "-c", sys.argv[1], sys.argv[2]]
sys.exit(this_host.train_here(parse(["train", sys.argv[3]])))"""


def until(happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a training of a rank that only steps, with the real watching over it; ends what is left of it."""
    script = tmp_path / "pipeline" / "train.py"
    script.parent.mkdir()
    script.write_text(RANK)
    config = tmp_path / "config.yaml"
    config.touch()
    started: list[psutil.Process] = []

    def go(**how: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", START, LAUNCHER, str(script), str(config)], **how)
        until((tmp_path / "began").exists)
        started.append(psutil.Process(process.pid))
        started.extend(started[0].children(recursive=True))
        return process

    yield go
    for process in started:
        if process.is_running():
            process.kill()
    psutil.wait_procs(started, 10)


def ranks_of(place: Path) -> list[int]:
    script = str(place / "pipeline" / "train.py")
    return [
        process.pid for process in psutil.process_iter(["cmdline"]) if script in (process.info["cmdline"] or [])[:4]
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_every_signal_that_ends_a_program_saves_first(number: signal.Signals, start: Any, tmp_path: Path) -> None:
    process = start(stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "saved").exists() and not ranks_of(tmp_path)
    assert b"stopping: the ranks save after this step" in errors


def test_ranks_save_and_stop_where_what_watches_over_them_was_killed(start: Any, tmp_path: Path) -> None:
    process = start(stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    process.kill()
    process.wait()
    until((tmp_path / "saved").exists)
    until(lambda: not ranks_of(tmp_path))


def test_a_closed_terminal_loses_what_is_printed_and_nothing_else(start: Any, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = start(stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_terminal)
    os.close(theirs)
    os.close(ours)
    assert process.wait(60) == 0 and (tmp_path / "saved").exists() and not ranks_of(tmp_path)


def test_a_closed_terminal_told_twice_ends_nothing_at_once(start: Any, tmp_path: Path) -> None:
    process = start(stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "saved").exists() and b"ending the ranks" not in errors


def test_under_nohup_a_training_outlives_its_terminal(start: Any, tmp_path: Path) -> None:
    process = start(
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(1, signal.SIG_IGN)
    )
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    (tmp_path / "pulse").unlink()
    until((tmp_path / "pulse").exists)
    assert process.poll() is None and not (tmp_path / "saved").exists()
    process.terminate()
    assert process.wait(60) == 0 and (tmp_path / "saved").exists()
