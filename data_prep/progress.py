"""Shows how far long work has come: a bar or a moving line on a terminal, plain lines elsewhere. Writes to standard error.

Knows nothing of what the work is.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

PLAIN_SECONDS = 10.0
MEBIBYTE = 1 << 20

Bar = TypeVar("Bar", bound="_Shown")


class _Shown:
    """A context manager that draws a bar of these columns while it lives, where standard error is a terminal."""

    def __init__(self, title: str, total: int | None, *columns: ProgressColumn) -> None:
        self.title, self.total, self.columns = title, total, columns
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def __enter__(self: Bar) -> Bar:
        self.began = self.shown = time.monotonic()
        if self.console.is_terminal:
            self.bar = Progress(TextColumn("{task.description}"), *self.columns, console=self.console)
            self.task = self.bar.add_task(self.title, total=self.total)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, highlight=False)


class ByteProgress(_Shown):
    """Context manager around work on `total` bytes; `advance` after each part. Writes to standard error."""

    def __init__(self, title: str, total: int) -> None:
        columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
        super().__init__(title, total, *columns)
        self.bytes, self.done = total, 0

    def advance(self, size: int) -> None:
        """Count `size` more bytes as done; without a terminal a line every ten seconds and at the end."""
        self.done += size
        if self.bar:
            self.bar.advance(self.task, size)
            return
        now = time.monotonic()
        if now - self.shown >= PLAIN_SECONDS or self.done == self.bytes:
            self.shown = now
            rate = self.done / max(now - self.began, 1e-9)
            left = (self.bytes - self.done) / max(rate, 1e-9)
            self._say(
                f"{self.title}: {self.done / MEBIBYTE:.1f} of {self.bytes / MEBIBYTE:.1f} MiB, "
                f"{rate / MEBIBYTE:.1f} MiB/s, {left:.0f} s left"
            )


class Activity(_Shown):
    """Context manager around work whose end is not known: what it is at and for how long. Writes to standard error."""

    def __init__(self) -> None:
        super().__init__("", None, SpinnerColumn(), TimeElapsedColumn())

    def tell(self, text: str) -> None:
        """What the work is at; without a terminal a line every ten seconds."""
        if self.bar:
            self.bar.update(self.task, description=text)
            return
        now = time.monotonic()
        if now - self.shown >= PLAIN_SECONDS:
            self.shown = now
            self._say(f"{text}, {now - self.began:.0f} s")
