"""One training at a time in a run's folder: a lock that rank 0 holds as long as it lives, however it ends.

Knows the lock's file, and who holds it; nothing of what is trained.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.host.agent import JOB
from pipeline.run_folder import LOCK

_held: dict[Path, Any] = {}
"""The open files of this process's locks by folder; its end closes them."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer, as some parallel ones."""


def hold(out: Path) -> None:
    """Take the lock of a run's folder until this process ends; on a file system without locks, only say so.

    Raises:
        ValueError: another process holds it; the line names it and its host.
    """
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() in _held:
        return
    file = (out / LOCK).open("a+b")
    try:
        _lock(out, file)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(f"note: {out}: its file system has no locks; nothing keeps a second training out of it", file=sys.stderr)
        return
    holder = {"process": os.getpid(), "host": socket.gethostname(), "job": os.environ.get(JOB, ""), "since": _now()}
    file.truncate(0)
    file.write(json.dumps(holder).encode())
    file.flush()
    _held[out.resolve()] = file


def check_free(out: Path) -> None:
    """ValueError where another process holds the lock; nothing is made or held."""
    if (out / LOCK).is_file() and out.resolve() not in _held:
        with (out / LOCK).open("rb") as file, contextlib.suppress(OSError):
            _lock(out, file)


def forget(out: Path, job: str) -> None:
    """Remove what an ended job's rank 0 left: on a lost host's behalf a file server may hold its lock for long."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if json.loads((out / LOCK).read_bytes())["job"] == job:
            (out / LOCK).unlink()


def _lock(out: Path, file: Any) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who = _describe(file.read())
        raise ValueError(f"run.out = {out}: {who}; wait for its end, or choose another run.out") from None


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # it has just taken the lock
        who = "it has just begun"
    return f"another training writes there ({who})"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
