"""Batches come in order, made ahead of time but not further than asked, and errors reach whoever waits for the batch."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
import torch

from pipeline.training.prefetch import Inputs, prefetched


def test_results_come_in_order_and_end() -> None:
    assert list(prefetched(lambda number: number * 10, 3, 8)) == [30, 40, 50, 60, 70]
    assert list(prefetched(lambda number: number, 5, 5)) == []


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_no_more_than_asked_is_made_ahead_and_that_much_is(ahead: int) -> None:
    made: list[int] = []
    reached = threading.Condition()

    def make(number: int) -> int:
        with reached:
            made.append(number)
            reached.notify_all()
        return number

    batches = prefetched(make, 0, 100)
    batches.close()
    batches = prefetched(make, 0, 100, ahead)
    for number in range(5):
        assert next(batches) == number
        with reached:
            assert reached.wait_for(lambda: len(made) > number + ahead, timeout=60)  # noqa: B023
            assert made == list(range(number + ahead + 1))
    batches.close()
    assert made == list(range(5 + ahead))


def test_batches_are_made_by_one_other_thread() -> None:
    threads = set(prefetched(lambda _: threading.get_ident(), 0, 6))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_an_error_is_raised_where_its_batch_is_asked_for() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise OSError("the disk is gone")
        return number

    batches = prefetched(make, 0, 10)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_closing_ends_the_thread() -> None:
    batches = prefetched(lambda number: number, 0, 1000)
    next(batches)
    batches.close()
    assert not any(thread.name.startswith("input") for thread in threading.enumerate())


class Batch:
    """Knows where it was copied."""

    def __init__(self, number: int) -> None:
        self.number, self.device = number, ""

    def to(self, device: torch.device) -> Batch:
        self.device = device.type
        return self


def test_batches_are_copied_ahead_to_a_gpu_alone() -> None:
    taken: list[int] = []

    def steps() -> Generator[list[Batch]]:
        for number in range(3):
            taken.append(number)
            yield [Batch(number)]

    for device, ahead in (("cpu", 1), ("cuda", 2)):
        taken.clear()
        inputs = Inputs(steps(), torch.device(device))  # type: ignore[arg-type]
        first = inputs.take()[0]
        assert isinstance(first, Batch) and first.device == device
        inputs.fetch()
        inputs.fetch()
        assert len(taken) == ahead
        assert [inputs.take()[0].number for _ in range(2)] == [1, 2]  # type: ignore[attr-defined]
        inputs.fetch()
        with pytest.raises(StopIteration):
            inputs.take()
