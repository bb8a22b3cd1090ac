"""What a run shows and records: a progress bar or plain lines, metrics as JSON lines, for TensorBoard and, if asked, W&B.

Only rank 0 has one; it is given plain numbers and knows nothing of tensors.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter

from pipeline.objectives import catalog
from pipeline.run_folder import ALIGNMENTS, METRICS, PHASES
from pipeline.settings.schema import Config
from pipeline.watch.wandb_sink import WandbSink

_DETAILS = {  # by the end of the key, as docs/metrics.md lists them
    "tflops_per_device": "{:,.2f} TFLOP/s",
    "utilisation": "utilisation {:.1%}",
    "peak_memory_gb": "{:.2f} GB",
    **{end: figure.shown for end, figure in catalog.figures() if figure.shown is not None},
    "lr": "lr {:.2e}",
    "gradient_norm": "norm {:.2f}",
    "loss_scale": "scale {:g}",
    "skipped_steps": "skipped {:.0f}",
}


class Monitor:
    """Metrics of one run. Lines of metrics.jsonl have a `kind`: train, validation, checkpoint or end (docs/metrics.md)."""

    def __init__(self, config: Config, first_step: int) -> None:
        out, steps = config.run.out, config.run.steps
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self._lines = _open_after_whole_lines(out / METRICS)
        self._wandb = WandbSink(config) if config.run.wandb else None
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=first_step)
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._steps, self._first_step, self._started = steps, first_step, time.monotonic()
        self._progress: Progress | None = None
        # Below the bar, on as many lines as it takes: beside it, a terminal of 80 columns would have no room for the bar.
        self._details = Text(style="dim", no_wrap=False, overflow="fold")
        if self._console.is_terminal:
            columns = (
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._console)
            self._task = self._progress.add_task("training", total=steps, completed=first_step)
            self._live = Live(Group(self._progress, self._details), console=self._console)
            self._live.start()

    def say(self, text: str) -> None:
        """One line for whoever watches."""
        self._console.print(text, markup=False)

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl; numbers also go to TensorBoard and W&B."""
        try:
            self._lines.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        except OSError as error:
            raise OSError(f"{self._out / METRICS}: cannot be written ({error.strerror}); make room") from None
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        for name, value in numbers.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log(kind, step, numbers)

    def record_alignments(self, step: int, layer: int, pairs: list[dict[str, Any]]) -> None:
        """Append a line to alignments.jsonl; see `alignment_record`."""
        with _open_after_whole_lines(self._out / ALIGNMENTS) as lines:
            lines.write(json.dumps({"step": step, "layer": layer, "pairs": pairs}, ensure_ascii=False) + "\n")

    def train(self, step: int, values: dict[str, float]) -> None:
        """Metrics of the steps up to `step` (counted from 1)."""
        self.record("train", step, values)
        losses = "  ".join(f"{name} {value:.3f}" for name, value in values.items() if name.endswith("_loss"))
        note = f"{losses}  {values['tokens_per_second']:,.0f} tokens/s"
        details = describe(values)
        if self._progress is not None:
            self._progress.update(self._task, completed=step)
            self._details.plain = f"{note}\n{details}"
            return
        per_step = (time.monotonic() - self._started) / max(step - self._first_step, 1)
        self.say(f"step {step}/{self._steps}  {note}  ETA {_clock((self._steps - step) * per_step)}")
        self.say(f"  {details}")

    def close(self) -> None:
        if self._progress is not None:
            self._live.stop()
        self._lines.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.close()


def describe(values: dict[str, float]) -> str:
    """What a line has beside losses and throughput: use of the device, labels, the update's health, share of each phase."""
    parts = [text.format(value) for end, text in _DETAILS.items() for key, value in values.items() if key.endswith(end)]
    total = values["seconds_per_step"]
    parts += [f"{phase} {values[f'seconds_{phase}'] / total:.0%}" for phase in PHASES if f"seconds_{phase}" in values]
    return "  ".join(parts)


def _open_after_whole_lines(path: Path) -> TextIO:
    """Append; what a killed run left of its last line must not become the head of the next one."""
    lines = path.open("a+b")
    if lines.tell():
        lines.seek(-1, os.SEEK_END)
        if lines.read(1) != b"\n":
            lines.write(b"\n")
    lines.close()
    return path.open("a", encoding="utf-8", buffering=1)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
