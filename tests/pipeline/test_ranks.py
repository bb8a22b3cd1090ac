"""When a run must stop to have saved before its time is over."""

import psutil
import pytest

from pipeline.ranks import TimeLimit


class Clock:
    """The time, as a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A process that began at 1000."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: 1000.0)
    return clock


def stops_at(limit: TimeLimit, clock: Clock, laps: list[float]) -> float | None:
    """When the limit said stop, asked after each lap."""
    for lap in laps:
        clock.now += lap
        if limit.near():
            return clock.now - 1000
    return None


def test_without_a_limit_a_run_never_stops(clock: Clock) -> None:
    assert stops_at(TimeLimit(None, 1e9), clock, [1e6] * 10) is None


def test_the_process_s_start_counts(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, 0), clock, [601]) == 601


def test_there_is_time_left_for_two_steps_and_saving(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, save_seconds=30), clock, [10.0] * 100) == 560  # 600 - 2 * 10 - 30, passed


def test_the_longest_step_counts_with_what_was_validated_and_saved_in_it(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, save_seconds=0), clock, [10.0] * 5 + [100.0] + [10.0] * 100) == 410


def test_a_start_that_took_long_is_not_taken_for_a_step(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, save_seconds=0), clock, [400.0] + [10.0] * 100) == 590
