"""Shows how far long work has come: a bar or a moving line on a terminal, plain lines elsewhere. Writes to standard error.

Knows nothing of what the work is.
"""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

PLAIN_SECONDS = 10.0
MEBIBYTE = 1 << 20


class ByteProgress:
    """Context manager around work on `total` bytes; `advance` after each part. Writes to standard error."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def __enter__(self) -> "ByteProgress":
        self.began = self.shown = time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
            self.bar = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=self.console)
            self.task = self.bar.add_task(self.title, total=self.total)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, size: int) -> None:
        """Count `size` more bytes as done; without a terminal a line every ten seconds and at the end."""
        self.done += size
        if self.bar:
            self.bar.advance(self.task, size)
            return
        now = time.monotonic()
        if now - self.shown >= PLAIN_SECONDS or self.done == self.total:
            self.shown = now
            rate = self.done / max(now - self.began, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            self.console.print(
                f"{self.title}: {self.done / MEBIBYTE:.1f} of {self.total / MEBIBYTE:.1f} MiB, "
                f"{rate / MEBIBYTE:.1f} MiB/s, {left:.0f} s left",
                soft_wrap=True,
                highlight=False,
            )


class Activity:
    """Context manager around work whose end is not known: what it is at and for how long. Writes to standard error."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bar: Progress | None = None

    def __enter__(self) -> "Activity":
        self.began = self.shown = time.monotonic()
        if self.console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("", total=None)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def tell(self, text: str) -> None:
        """What the work is at; without a terminal a line every ten seconds."""
        if self.bar:
            self.bar.update(self.task, description=text)
            return
        now = time.monotonic()
        if now - self.shown >= PLAIN_SECONDS:
            self.shown = now
            self.console.print(f"{text}, {now - self.began:.0f} s", soft_wrap=True, highlight=False)
