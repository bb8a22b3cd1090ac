"""Metrics between two lines of the log: summed on the device without a sync, reduced over the ranks when they are read."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.objectives.base import Objective


class Meter:
    """Sums of what the objectives report, tokens, and host seconds per phase of the step."""

    def __init__(self, device: torch.device, objectives: Sequence[Objective]) -> None:
        self._device, self._objectives = device, objectives
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, dict[str, Tensor]] = {objective.name: {} for objective in self._objectives}
        self._shared = torch.zeros(len(self._objectives) + 2, dtype=torch.double, device=self._device)
        self._steps = 0
        self._seconds: dict[str, float] = {}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what was done since the last lap (validation, saving) out of the timings."""
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        """Book the host time since the last lap on a phase of the step."""
        now = time.monotonic()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def add(self, terms: dict[str, dict[str, Tensor]]) -> None:
        """Add what a forward returned, by objective: this rank's sums."""
        for name, values in terms.items():
            sums = self._sums[name]
            for key, value in values.items():
                sums[key] = sums.get(key, 0) + value.detach().double()

    def count(self, shared: Tensor) -> None:
        """Add a step's all-reduced counts: predicted tokens per objective, tokens, and one more that is not used."""
        self._shared += shared
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Means since the last read, over all ranks (every rank must call it); starts anew."""
        keys = [(name, key) for name, sums in self._sums.items() for key in sums]
        stacked = torch.stack([self._sums[name][key] for name, key in keys])
        dist.all_reduce(stacked)
        sums: dict[str, dict[str, float]] = {}
        for (name, key), value in zip(keys, stacked.tolist(), strict=True):
            sums.setdefault(name, {})[key] = value
        *counts, tokens, _ = self._shared.tolist()
        values: dict[str, float] = {}
        for objective, count in zip(self._objectives, counts, strict=True):
            report = objective.report(sums[objective.name], count)
            values |= {f"{objective.name}_{key}": value for key, value in report.items()}
        seconds = sum(self._seconds.values())
        values |= {"tokens_per_second": tokens / seconds, "seconds_per_step": seconds / self._steps}
        values |= {f"seconds_{phase}": spent / self._steps for phase, spent in self._seconds.items()}
        self._clear()
        return values
