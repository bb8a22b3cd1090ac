"""How far a command is, on standard error: a bar on a terminal, else a line every ten seconds.

Where data goes to the same terminal, nothing is drawn into it.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data_prep.standard_output import shares_a_terminal

LINE_SECONDS = 10.0


class Counted:
    """Context manager around work on things that are counted, such as pairs.

    Args:
        what: is done to them, for the bar: `aligning`.
        unit: their name in the plural.
    """

    def __init__(self, what: str, unit: str) -> None:
        console = Console(stderr=True)
        self._what, self._unit = what, unit
        self._silent = shares_a_terminal()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._bar = None
        if console.is_terminal and not self._silent:
            self._bar = Progress(*columns, console=console)

    def __enter__(self) -> Counted:
        self._began = self._shown = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=None, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, count: int, done: float | None = None) -> None:
        """So many are done; `done`: the share of all, from 0 to 1, where it is known."""
        now = time.monotonic()
        seconds = max(now - self._began, 1e-9)
        per_second = count / seconds
        rate = f"{count:,} {self._unit}, {per_second:,.{0 if per_second >= 10 else 1}f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=None if done is None else 1, rate=rate)
        elif not self._silent and now - self._shown >= LINE_SECONDS:
            self._shown = now
            left = "" if not done else f", {_clock(seconds * (1 - done) / done)} left"
            print(f"{self._what}: {rate}{left}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
