"""Commands of pipeline in processes forked from one that has imported what they need, to be killed: `kill_commands` does."""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.cli import main

END_SECONDS = 240
POLL_SECONDS = 0.001
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree", "shutil.copyfile"}
"""Python's own events that change files; those of libraries in other languages are met by moments alone."""


def preload() -> None:
    """Import what the commands import, so that it need not be done again."""
    for name in (
        "matplotlib.pyplot", "transformers", "datasets", "accelerate", "pipeline.align.aligner", "pipeline.adapt.adapt",
        "pipeline.evaluate.alignment_error", "pipeline.finetune.run", "pipeline.generate.generator",
        "pipeline.weights.export", "pipeline.xtreme.run", "pipeline.xtreme.picture", "pipeline.xtreme.tables",
    ):  # fmt: skip
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: str
    seconds: float
    changes: int
    """Operations on files of its folder."""


class Fork:
    """A process of a process group of its own that runs something in a folder; each operation on a file there is told."""

    def __init__(self, folder: Path, run: Callable[[], object], stop_at: int = 0) -> None:
        """stop_at: it stands still before so many-th operation on a file."""
        self.logs = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err")]
        for path in self.logs:  # before the process has its own, too
            path.write_bytes(b"")
        self.told, tell = os.pipe()
        self.began, self.changes = time.monotonic(), 0
        self.pid = os.fork()
        if not self.pid:
            code = 70
            try:
                os.close(self.told)
                _become(folder, self.logs)
                sys.addaudithook(_watch(str(folder), tell, stop_at))
                run()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(tell)
        self.status: int | None = None

    def runs(self) -> bool:
        """Whether it does, after a short wait in which operations on files are counted."""
        if self.status is not None:
            return False
        if select.select([self.told], [], [], POLL_SECONDS)[0]:
            self.changes += len(os.read(self.told, 1 << 16))
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = status
            while found := os.read(self.told, 1 << 16) if select.select([self.told], [], [], 0)[0] else b"":
                self.changes += len(found)
            os.close(self.told)
        return not pid

    def kill(self) -> None:
        """All of it, and all that it started."""
        family = psutil.Process(self.pid).children(recursive=True)
        os.killpg(self.pid, signal.SIGKILL)
        for member in family:
            if member.is_running():
                member.kill()
        while self.runs():
            pass
        if psutil.wait_procs(family, END_SECONDS)[1]:
            raise SystemExit(f"FAILED: something outlives the command by {END_SECONDS} s")

    def wait(self) -> Ended:
        """To its end."""
        while self.runs():
            if time.monotonic() - self.began > END_SECONDS:
                self.kill()
                raise SystemExit(f"FAILED: it takes more than {END_SECONDS} s: {self.ended().err}")
        return self.ended()

    def ended(self) -> Ended:
        assert self.status is not None
        out, err = (path.read_bytes() for path in self.logs)
        code = os.waitstatus_to_exitcode(self.status)
        return Ended(code, out, err.decode(errors="replace"), time.monotonic() - self.began, self.changes)


def _become(folder: Path, logs: list[Path]) -> None:
    """A process in `folder` of a group of its own, whose output goes to files."""
    os.setsid()
    os.chdir(folder)
    for number, path in enumerate(logs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115 (for as long as the process lives)


def _watch(folder: str, tell: int, stop_at: int) -> Callable[[str, tuple[Any, ...]], None]:
    count = 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or not isinstance(given[0], (str, bytes, os.PathLike)):
            return
        if event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if os.path.abspath(os.fsdecode(given[0])).startswith(f"{folder}/"):
            count += 1
            os.write(tell, b".")
            if count == stop_at:
                time.sleep(END_SECONDS)

    return hook


def command_line(words: list[str]) -> Callable[[], None]:
    """What `python -m pipeline` does with these words."""

    def run() -> None:
        sys.argv = ["pipeline", *words]
        main()

    return run
