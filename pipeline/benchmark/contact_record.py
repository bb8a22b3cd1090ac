"""The record of `first_contact`: the machine, a line of JSON a figure, on the disk once it is made, and the table of them.

Knows only Python's own modules, so that it works before the carried packages are found.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "deepspeed", "transformers", "numpy")
GPU_FACTS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit", "memory.total")
RESERVE = 3
"""Seconds before its end at which an item begins nothing more: it writes what it has."""
Entry = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A file of one JSON object a line: its `kind` is environment, item, figure, check, tuning or left out."""

    path: Path
    item: str
    started: float
    """`time.time` of the whole run's start."""

    def add(self, kind: str, entry: Entry) -> None:
        """Append one entry, with the item and the seconds since the start; it is on the disk when this returns."""
        line = {"kind": kind, "item": self.item, "second": round(time.time() - self.started, 1), **entry}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Contact:
    """What an item is given."""

    record: Record
    data: Path | None
    rehearse: bool
    end: float
    """`time.monotonic` at which it is killed."""

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    def left(self) -> float:
        """Seconds in which something may be begun."""
        return self.end - time.monotonic() - RESERVE

    def figure(self, name: str, contender: str, value: float, unit: str, **more: Any) -> None:
        self.record.add("figure", {"name": name, "contender": contender, "value": value, "unit": unit, **more})

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.record.add("check", {"name": name, "passed": passed, "detail": detail})

    def time_is_up(self, what: str) -> bool:
        if late := self.left() <= 0:
            self.record.add("left out", {"what": f"{what}: the time is up"})
        return late


def read(path: Path) -> list[Entry]:
    """All whole lines of a record; a last one that was cut by a kill is passed over.

    Raises:
        ValueError: a line before the last is no JSON object.
    """
    entries: list[Entry] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}:{number}: not a line of JSON: {line[:80]}") from None
            continue
        entries.append(entry)
    return entries


def environment(repository: Path) -> Entry:
    """What every figure depends on besides the code."""
    said = _said("nvidia-smi", "--id=0", f"--query-gpu={','.join(GPU_FACTS)}", "--format=csv,noheader").split(", ")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": os.environ.get("COMMIT") or _said("git", "-C", repository, "describe", "--always", "--dirty"),
        "gpu": dict(zip(GPU_FACTS, said, strict=True)) if len(said) == len(GPU_FACTS) else {},
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def _said(*command: str | Path) -> str:
    """A command's output; "unknown" where it is not installed or fails."""
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


def table(entries: list[Entry]) -> str:
    """The record in Markdown: the machine, whether checks passed, and every figure with its ratios."""
    lines = []
    for entry in (entry for entry in entries if entry["kind"] == "environment" and "gpu" in entry):
        device = entry["gpu"].get("name", entry["processor"])
        versions = ", ".join(f"{package} {entry[package]}" for package in PACKAGES if entry[package])
        lines += [f"{device}, {versions}, commit {entry['commit']}, {entry['date']}", ""]
    checks = [entry for entry in entries if entry["kind"] == "check"]
    failed = [f"{entry['name']}: {entry['detail']}" for entry in checks if not entry["passed"]]
    lines += [f"{len(checks) - len(failed)} of {len(checks)} checks passed."]
    lines += [*(f"- FAILED {line}" for line in failed), "", "| what | who | value | beside |", "|---|---|---|---|"]
    for entry in (entry for entry in entries if entry["kind"] == "figure"):
        beside = [f"{ratio:.3g} × {other}" for other, ratio in entry.get("ratio_to", {}).items()]
        if "share_of_copy" in entry:
            beside.insert(0, f"{entry['share_of_copy']:.0%} of a copy's rate")
        value = f"{entry['value']:.4g} {entry['unit']}".strip()
        lines.append(f"| {entry['name']} | {entry['contender']} | {value} | {'; '.join(beside)} |")
    left_out = [entry["what"] for entry in entries if entry["kind"] == "left out"]
    return "\n".join([*lines, *(["", "Left out:"] if left_out else []), *(f"- {what}" for what in left_out)])
