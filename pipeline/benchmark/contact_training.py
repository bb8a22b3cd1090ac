"""Everything about training that needs a GPU, in one command: speed beside the straightforward step, utilisation, precision.

    python pipeline/benchmark/gpu_checks.py --data DATA_DIR [--minutes 25] [--json FILE] [--dry-run]

On one GPU, at the size of XLM-R base: real tokens a second and memory against the straightforward step at equal batches; the
share of the device's peak that our step reaches in fp16 and bf16; and the loss curves of both over 500 steps, beside what
another seed changes. `--dry-run` does the same on a CPU, small, with bf16 and fp32; its figures mean nothing.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

if __name__ == "__main__":
    # Started as a file: put the repository on the path instead of this folder, whose names are not top-level modules.
    # With PYTHONSAFEPATH the folder is not there, and nothing is replaced.
    sys.path[: 0 if getattr(sys.flags, "safe_path", False) else 1] = [str(Path(__file__).resolve().parents[2])]

import deepspeed
import torch
import typer

from pipeline import command_line, shipped
from pipeline.benchmark.step import BASELINE, CONFIG, OURS, Line, figures, run, summary, total_loss
from pipeline.quickstart import binarize

LAST = 50  # steps at the end of a curve whose mean is compared


@dataclass(frozen=True)
class CheckSizes:
    """How much a run does; a dry run does as little as reaches every line."""

    precisions: tuple[str, str]
    model: tuple[str, ...]
    equal_batch: tuple[str, ...]  # that the straightforward step's memory holds
    large_batch: tuple[str, ...]  # that fills the device
    timed_steps: int
    curve_steps: int


REAL = CheckSizes(
    ("fp16", "bf16"),
    ("model.layers=12", "model.hidden=768", "model.heads=12", "model.feed_forward=3072", "optimizer.lr=2e-4"),
    ("data.block_tokens=512", "data.side_tokens=254", "batch.mono=16", "batch.pairs=64"),
    ("data.block_tokens=512", "data.side_tokens=254", "batch.mono=128", "batch.pairs=512"),
    timed_steps=30,
    curve_steps=500,
)
DRY = CheckSizes(
    ("bf16", "fp32"),
    (
        "model.layers=2",
        "model.hidden=32",
        "model.heads=2",
        "model.feed_forward=64",
        "objectives={dwa: {alignment_layer: 1}}",
    ),
    ("data.block_tokens=64", "data.side_tokens=30", "batch.mono=2", "batch.pairs=4"),
    ("data.block_tokens=64", "data.side_tokens=30", "batch.mono=4", "batch.pairs=8"),
    timed_steps=4,
    curve_steps=5,
)


@dataclass
class Session:
    """Where runs are made, and until when another may be started."""

    sizes: CheckSizes
    data: Path
    folder: Path
    end: float

    def train(self, contender: str, precision: str, steps: int, *settings: str) -> list[Line] | None:
        """The metrics of a run, a line per step; None, and a line said, where the time is up or the run failed."""
        what = f"{contender}, {precision}, {steps} steps"
        if time.monotonic() > self.end:
            print(f"left out: {what}: the time is up", flush=True)
            return None
        out = Path(tempfile.mkdtemp(dir=self.folder))
        stage = f"deepspeed=ds_configs/zero1_{precision}.json"
        try:
            return run(
                contender, CONFIG, 1, steps, [f"data.path={self.data}", stage, *self.sizes.model, *settings], out
            )
        except ValueError as error:
            tail = "\n".join(next(out.glob("*.log")).read_text(encoding="utf-8").splitlines()[-15:])
            print(f"FAILED {what}: {error}\n{tail}", flush=True)
            return None


def compare_with_straightforward(session: Session) -> list[dict[str, Any]]:
    """Speed and memory at equal batches."""
    precision = session.sizes.precisions[0]
    results = {}
    for contender in (BASELINE, OURS):
        lines = session.train(contender, precision, session.sizes.timed_steps, *session.sizes.equal_batch)
        if lines:
            results[contender] = summary(lines)
    return figures(results, f"equal batches, {precision}")


def utilisation(session: Session) -> list[dict[str, Any]]:
    """What our step reaches with a batch that fills the device, by precision."""
    entries = []
    for precision in session.sizes.precisions:
        lines = session.train(OURS, precision, session.sizes.timed_steps, *session.sizes.large_batch)
        for name, unit in (
            ("utilisation", "share of peak"),
            ("tflops_per_device", "TFLOP/s"),
            ("tokens_per_second", "/s"),
        ):
            values = [line[name] for line in (lines or [])[2:] if name in line]
            if values:
                entries.append(
                    {
                        "name": name,
                        "contender": f"ours, {precision}",
                        "value": median(values),
                        "unit": unit,
                        "ratio_to": {},
                    }
                )
    return entries


def curves(session: Session) -> list[dict[str, Any]]:
    """Mean loss of the last steps in both precisions, and in the first one with another seed."""
    ends = {}
    for precision, seed in (
        (session.sizes.precisions[0], 1),
        (session.sizes.precisions[1], 1),
        (session.sizes.precisions[0], 2),
    ):
        settings = (*session.sizes.equal_batch, f"run.seed={seed}")
        lines = session.train(OURS, precision, session.sizes.curve_steps, *settings)
        if lines:
            ends[f"{precision}, seed {seed}"] = fmean(total_loss(line) for line in lines[-LAST:])
    return [
        {
            "name": f"loss, mean of the last {LAST} of {session.sizes.curve_steps} steps",
            "contender": name,
            "value": value,
            "unit": "nats",
            "ratio_to": {other: value / theirs for other, theirs in ends.items() if other != name},
        }
        for name, value in ends.items()
    ]


def environment() -> dict[str, str]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=shipped.PACKAGE
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "device": device,
        "torch": torch.__version__,
        "deepspeed": deepspeed.__version__,
        "commit": commit.stdout.strip(),
        "command": " ".join(sys.argv),
    }


def gpu_checks(
    data: Annotated[Path | None, typer.Option(help="DATA_DIR; by default a small corpus is generated")] = None,
    minutes: Annotated[float, typer.Option(help="no run is started after so many minutes")] = 25,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="small and on the CPU")] = False,
) -> None:
    """Check and time training on a GPU.

    Example: python pipeline/benchmark/gpu_checks.py --data data --json figures.json
    """
    if not dry_run and not torch.cuda.is_available():
        raise ValueError("gpu_checks: no CUDA device; --dry-run does the same, small, on the CPU")
    with tempfile.TemporaryDirectory(prefix="pipeline_gpu_checks_") as folder:
        if data is None:
            binarize(Path(folder), seed=1)
        session = Session(
            DRY if dry_run else REAL, data or Path(folder) / "data", Path(folder), time.monotonic() + 60 * minutes
        )
        entries: list[dict[str, Any]] = []
        for check in (utilisation, compare_with_straightforward, curves):
            found = check(session)
            entries += found
            for entry in found:
                print(json.dumps(entry), flush=True)
            if json_file:
                content = {"environment": environment(), "figures": entries}
                json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(gpu_checks)
    command_line.run(app)


if __name__ == "__main__":
    main()
