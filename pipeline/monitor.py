"""What a run shows and records: a progress bar or plain lines, metrics as JSON lines and for TensorBoard.

Only rank 0 has one; it is given plain numbers and knows nothing of tensors.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter


class Monitor:
    """Metrics of one run. Lines of metrics.jsonl have a `kind`: start, train, validation, checkpoint or end."""

    def __init__(self, out: Path, first_step: int, steps: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._lines = (out / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=first_step)
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._steps, self._first_step, self._started = steps, first_step, time.monotonic()
        self._progress: Progress | None = None
        if self._console.is_terminal:
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._progress = Progress(*columns, console=self._console)
            self._task = self._progress.add_task("training", total=steps, completed=first_step, note="")
            self._progress.start()

    def say(self, text: str) -> None:
        """One line for whoever watches."""
        self._console.print(text, markup=False)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl; numbers also go to TensorBoard."""
        self._lines.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def train(self, step: int, values: dict[str, float]) -> None:
        """Metrics of the steps up to `step` (counted from 1)."""
        self.record("train", step, values)
        losses = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if name.endswith("_loss"))
        note = f"{losses}  {values['tokens_per_second']:,.0f} tokens/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, note=note)
            return
        per_step = (time.monotonic() - self._started) / max(step - self._first_step, 1)
        self.say(
            f"step {step}/{self._steps}  {note}  lr {values['lr']:.2e}  ETA {_clock((self._steps - step) * per_step)}"
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._lines.close()
        self._board.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
