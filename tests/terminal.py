"""A command as it is typed at a terminal: a pseudo-terminal for its standard error, and for its output if asked.

`screen` is what the terminal was sent, with its control sequences; `lines` is that without colours, line by line.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

Output = Literal["file", "pipe", "terminal"]
COLUMNS = 200
"""As wide as tables are made where there is no terminal, so that both can be compared."""
PATIENCE_SECONDS = 240
_COLOUR = re.compile(r"\x1b\[([0-9;]*m|\?25[hl])")  # and the cursor that is hidden and shown again


@dataclass
class Typed:
    """How a command ended that was typed at a terminal; `out` is empty where its output went to the screen."""

    code: int
    out: bytes
    screen: str

    @property
    def lines(self) -> list[str]:
        """The screen's lines without colours."""
        return _COLOUR.sub("", self.screen).replace("\r\n", "\n").split("\n")


def plainly(command: Sequence[object], folder: Path) -> tuple[bytes, bytes]:
    """Standard output and error of a command that has no terminal at all."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_world())
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout, done.stderr


def at_terminal(command: Sequence[object], folder: Path, output: Output) -> Typed:
    """Run a command in `folder` with its standard input and error at a terminal, its output there or where `output` says."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    held: IO[bytes] | int = theirs
    if output == "pipe":
        held = subprocess.PIPE
    elif output == "file":
        held = (folder / "typed.out").open("wb")
    screen = bytearray()
    try:
        process = subprocess.Popen(
            [str(word) for word in command], stdin=theirs, stdout=held, stderr=theirs, cwd=folder, env=_world(),
            start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(theirs)
    reader = threading.Thread(target=_read_all, args=(ours, screen))
    reader.start()
    try:
        out = process.communicate(timeout=PATIENCE_SECONDS)[0] or b""
    finally:
        process.kill()
        reader.join()
        os.close(ours)
        if not isinstance(held, int):
            held.close()
            out = (folder / "typed.out").read_bytes()
    return Typed(process.returncode, out, screen.decode())


def _read_all(terminal: int, into: bytearray) -> None:
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # EIO: nobody has the other end any more
            return
        if not block:
            return
        into += block


def _world() -> dict[str, str]:
    """The environment, without what tells a program that it has, or has not, a terminal."""
    hints = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES", "XLM_ALIGN_VERBOSE")
    clean = {name: value for name, value in os.environ.items() if name not in hints}
    root = str(Path(__file__).resolve().parents[1])
    return {**clean, "TERM": "xterm", "PYTHONPATH": os.pathsep.join([root, clean.get("PYTHONPATH", "")]).rstrip(":")}
