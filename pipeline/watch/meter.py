"""Metrics between two lines of the log: summed on the device without a sync, reduced over the ranks when they are read."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.objectives.base import Objective
from pipeline.watch.hardware import peak_bytes, peak_flops


class PhaseClock:
    """Seconds per phase of the step: on a GPU what the device spent between two marks, waits for the host included."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str | None, float | torch.cuda.Event]] = []
        self.restart()

    def restart(self) -> None:
        """Leave what was done since the last mark (validation, saving) out."""
        self._mark(None)

    def lap(self, phase: str) -> None:
        """Book the time since the last mark on a phase."""
        self._mark(phase)

    def _mark(self, phase: str | None) -> None:
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.monotonic()))

    def read(self) -> dict[str, float]:
        """Seconds by phase since the last read, in the order of the step; waits for a GPU to get here."""
        seconds: dict[str, float] = {}
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
            if phase is not None:
                seconds[phase] = seconds.get(phase, 0.0) + _seconds_between(start, end)
        self._marks = []
        self.restart()
        return seconds


def _seconds_between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(end, float):
        assert isinstance(start, float)
        return end - start
    assert not isinstance(start, float)
    end.synchronize()
    return start.elapsed_time(end) / 1000


class Meter:
    """Sums of what the objectives report, tokens, operations, and seconds per phase of the step.

    Phases: input (waiting for the batch), label, forward, backward, step (reduction and update).
    """

    def __init__(self, device: torch.device, objectives: Sequence[Objective]) -> None:
        self._device, self._objectives = device, objectives
        self.clock = PhaseClock(device)
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, dict[str, Tensor]] = {objective.name: {} for objective in self._objectives}
        self._shared = torch.zeros(len(self._objectives) + 1, dtype=torch.double, device=self._device)
        self._flops, self._steps = 0.0, 0

    def add(self, terms: dict[str, dict[str, Tensor]]) -> None:
        """Add what a forward returned, by objective: this rank's sums."""
        for name, values in terms.items():
            sums = self._sums[name]
            for key, value in values.items():
                sums[key] = sums.get(key, 0) + value.detach().double()

    def count(self, shared: Tensor, flops: float) -> None:
        """Add a step: all-reduced predicted tokens per objective and tokens, and this rank's operations."""
        self._shared += shared
        self._flops += flops
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Means since the last read, over all ranks (every rank must call it); starts anew."""
        keys = [(name, key) for name, sums in self._sums.items() for key in sums]
        seconds = self.clock.read()
        own = [torch.tensor(self._flops, dtype=torch.double, device=self._device)]
        stacked = torch.stack([self._sums[name][key] for name, key in keys] + own)
        dist.all_reduce(stacked)
        peak = torch.tensor(peak_bytes(self._device), dtype=torch.double, device=self._device)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        *summed, flops = stacked.tolist()
        sums: dict[str, dict[str, float]] = {}
        for (name, key), value in zip(keys, summed, strict=True):
            sums.setdefault(name, {})[key] = value
        *counts, tokens = self._shared.tolist()
        values: dict[str, float] = {}
        for objective, count in zip(self._objectives, counts, strict=True):
            report = objective.report(sums[objective.name], count)
            values |= {f"{objective.name}_{key}": value for key, value in report.items()}
        total = sum(seconds.values())
        values |= {"tokens_per_second": tokens / total, "seconds_per_step": total / self._steps}
        values |= {f"seconds_{phase}": spent / self._steps for phase, spent in seconds.items()}
        per_device = flops / total / dist.get_world_size()
        values |= {"tflops_per_device": per_device / 1e12, "peak_memory_gb": float(peak) / 1e9}
        if (most := peak_flops(self._device)) is not None:
            values["utilisation"] = per_device / most
        self._clear()
        return values
