"""What `benchmark` and `gpu_checks` write: the machine of a figure, and lines of JSON, each kept once it is made."""

import json
import math
import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

GPU_FACTS = ("driver_version", "clocks.sm", "clocks.max.sm", "power.limit")
"""What `nvidia-smi --query-gpu` is asked for."""


class Record:
    """A file of one JSON object a line. A process that ends in any way, or a machine that is taken away, loses none of them."""

    def __init__(self, path: str | None) -> None:
        """path: is appended to; None: nothing is written."""
        self._path = path

    def add(self, kind: str, entry: dict[str, Any]) -> None:
        """Write one entry; its `kind` is check, figure, tuning, left out or environment."""
        if self._path is None:
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **entry}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass
class Report:
    """What a run finds, said and recorded at once, and until when (`time.monotonic`) anything more is begun."""

    record: Record
    until: float = math.inf
    checks: dict[str, bool] = field(default_factory=dict)

    def check(self, name: str, passed: bool, detail: str) -> None:
        print(f"{'ok    ' if passed else 'FAILED'} {name}: {detail}", flush=True)
        self.checks[name] = passed
        self.record.add("check", {"name": name, "passed": passed, "detail": detail})

    def leave_out(self, what: str) -> None:
        print(f"left out: {what}", flush=True)
        self.record.add("left out", {"what": what})

    def time_is_up(self, what: str) -> bool:
        """Whether it is too late to begin something, which is then left out."""
        if late := time.monotonic() > self.until:
            self.leave_out(f"{what}: the time is up")
        return late


def environment(device: str) -> dict[str, Any]:
    """What a figure depends on besides the code. device: "cpu" or "cuda"."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        **(gpu_facts() if device == "cuda" else {}),
    }


def commit() -> str:
    """The commit of this code: COMMIT in the environment, for a copy without .git, else what git says, else unknown."""
    return os.environ.get("COMMIT") or _said("git", "-C", Path(__file__).parent, "describe", "--always", "--dirty")


def gpu_facts() -> dict[str, str]:
    """Driver, clocks and power limit of the first GPU, as far as nvidia-smi tells."""
    said = _said("nvidia-smi", "--id=0", f"--query-gpu={','.join(GPU_FACTS)}", "--format=csv,noheader")
    values = said.split(", ")
    return dict(zip(GPU_FACTS, values, strict=True)) if len(values) == len(GPU_FACTS) else {}


def _said(*command: str | Path) -> str:
    """A command's output, "unknown" where it is not installed or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
