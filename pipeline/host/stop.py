"""When a rank has to save and stop: it was told to, its terminal was closed, or what watched over it is gone.

Knows signals and processes; nothing of torch, or of what is trained.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from pipeline.host.agent import JOB
from pipeline.host.process import STOPPING, WATCHED


class StopFlag:
    """The loop asks `set` between steps, so that a step is never cut.

    Set by SIGTERM, SIGINT, SIGHUP (unless ignored, as under nohup) and SIGQUIT, and where the launcher has ended: its end is
    that of standard input, and a rank's parent is another one then.
    """

    def __init__(self) -> None:
        self._told = False
        self._parent = os.getppid() if os.environ.get(JOB) else None
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    @property
    def set(self) -> bool:
        if not self._told and self._is_alone():
            self._told = True
            print("what started this training has ended: saving after this step", file=sys.stderr)
        return self._told

    def _is_alone(self) -> bool:
        if self._parent is not None and os.getppid() != self._parent:
            return True
        if os.environ.get(WATCHED) != "1":
            return False
        ends = select.poll()
        ends.register(0, 0)  # only its end, which is always told; nothing is ever written there
        return bool(ends.poll(0))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._told = True


def outlive_terminal() -> None:
    """From now on, what is printed to a terminal that was closed is lost, instead of ending the process before it has saved."""
    sys.stdout, sys.stderr = map(_outliving, (sys.stdout, sys.stderr))


def _outliving(stream: TextIO) -> TextIO:
    if not (isinstance(stream, io.TextIOWrapper) and stream.isatty()):
        return stream
    encoding, errors, line_buffering = stream.encoding, stream.errors, stream.line_buffering
    return _TerminalOutput(stream.detach(), encoding, errors, line_buffering=line_buffering, write_through=True)


class _TerminalOutput(io.TextIOWrapper):
    def write(self, text: str) -> int:
        with _closed_is_no_error():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with _closed_is_no_error():
            super().flush()


@contextlib.contextmanager
def _closed_is_no_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
