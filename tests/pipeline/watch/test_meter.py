"""Seconds per phase."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from pipeline.watch.hardware import peak_bytes
from pipeline.watch.meter import PhaseClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PhaseClock:
    """A clock by which every look takes one second longer than the one before: 0, 1, 3, 6, 10, …"""
    looks = itertools.accumulate(itertools.count())
    monkeypatch.setattr(time, "monotonic", lambda: float(next(looks)))
    return PhaseClock(torch.device("cpu"))


def test_time_is_booked_on_the_phase_that_ends(clock: PhaseClock) -> None:
    for phase in ("input", "label", "input"):
        clock.lap(phase)
    assert clock.read() == {"input": 1.0 + 3.0, "label": 2.0}


def test_what_is_done_before_a_restart_counts_for_no_phase(clock: PhaseClock) -> None:
    clock.lap("input")
    clock.restart()
    clock.lap("label")
    assert clock.read() == {"input": 1.0, "label": 3.0}


def test_reading_starts_anew(clock: PhaseClock) -> None:
    clock.lap("input")
    assert clock.read() == {"input": 1.0}
    clock.lap("label")
    assert clock.read() == {"label": 3.0}


def test_the_peak_is_at_least_what_was_just_used() -> None:
    held = torch.ones(2**25)
    assert peak_bytes(torch.device("cpu")) >= held.numel() * held.element_size()
