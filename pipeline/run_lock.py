"""One training at a time in a run's folder: a lock that rank 0 holds as long as it lives, however it ends.

Knows the lock's file, and who holds it; nothing of what is trained.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from pipeline.cluster.agent import JOB
from pipeline.run_folder import LOCK

_held: list[Any] = []
"""The open files of locks, which the end of the process closes."""


def hold(out: Path) -> None:
    """Take the lock of a run's folder until this process ends.

    Raises:
        ValueError: another process holds it; the line names it and its host.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = _locked(out)
    holder = {"process": os.getpid(), "host": socket.gethostname(), "job": os.environ.get(JOB, ""), "since": _now()}
    file.seek(0)
    file.truncate()
    file.write(json.dumps(holder).encode())
    file.flush()
    _held.append(file)


def check_free(out: Path) -> None:
    """ValueError where another process holds the lock; nothing is made or held."""
    if (out / LOCK).is_file() and os.access(out / LOCK, os.W_OK):
        _locked(out).close()


def forget(out: Path, job: str) -> None:
    """Remove what an ended job's rank 0 left: on a lost host's behalf a file server may hold its lock for long."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if json.loads((out / LOCK).read_bytes())["job"] == job:
            (out / LOCK).unlink()


def _locked(out: Path) -> Any:
    file = (out / LOCK).open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise ValueError(
            f"run.out = {out}: {_describe(file.read())}; wait for its end, or choose another run.out"
        ) from None
    return file


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # it has just taken the lock
        who = "it has just begun"
    return f"another training writes there ({who})"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
