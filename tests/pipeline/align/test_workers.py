"""Pieces of work side by side: results in order, one thread of PyTorch each, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from pipeline.align.workers import side_by_side


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_worker_is_this_thread_and_nothing_is_begun_before_it_is_asked_for() -> None:
    begun: list[int] = []
    with side_by_side(1) as run:
        results = run(lambda piece: begun.append(piece) or threading.get_ident(), [1, 2])
        assert begun == []
        assert next(results) == threading.get_ident()
        assert begun == [1]


def test_pieces_run_at_the_same_time_and_results_keep_their_order() -> None:
    together = threading.Barrier(2)

    def piece(number: int) -> tuple[int, int]:
        together.wait(timeout=60)  # breaks unless two are under way
        return number, torch.get_num_threads()

    with side_by_side(2) as run:
        assert list(run(piece, range(6))) == [(number, 1) for number in range(6)]


def test_threads_that_come_later_have_as_many_as_before() -> None:
    def count() -> int:
        threads: list[int] = []
        thread = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return threads[0]

    with side_by_side(2) as run:
        list(run(lambda piece: piece, range(4)))
        assert torch.get_num_threads() == 3
    assert count() == torch.get_num_threads() == 3


def test_an_error_is_raised_where_its_result_is_asked_for_and_what_is_not_begun_is_dropped() -> None:
    begun: list[int] = []

    def piece(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise OSError("the disk is gone")
        time.sleep(0.01 if number > 1 else 0)
        return number

    with side_by_side(2) as run:
        results = run(piece, range(10_000))
        assert next(results) == 0
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)
    assert len(begun) < 10_000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker")]
