"""What comes by and by is handed on as it comes, in order, and nothing of it is lost."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator

import pytest

from pipeline.texts import arriving
from pipeline.texts.arriving import Arriving

PATIENCE = 60


def fed(of: queue.Queue[int | None]) -> Iterator[int]:
    while (item := of.get(timeout=PATIENCE)) is not None:
        yield item


def test_what_is_there_is_given_out_and_then_it_is_told_that_there_is_no_more_yet() -> None:
    source: queue.Queue[int | None] = queue.Queue()
    items = iter(Arriving(fed(source)))
    for number in (1, 2):
        source.put(number)
    assert [next(items), next(items), next(items)] == [1, 2, None]
    source.put(3)
    assert [next(items), next(items)] == [3, None]
    source.put(4)
    source.put(None)
    assert list(items) == [4]


def test_drops_without_a_pause_between_them_do_not_hold_up_what_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "PAUSE_SECONDS", PATIENCE)
    monkeypatch.setattr(arriving, "GATHER_SECONDS", 0.05)
    stop = threading.Event()

    def drops() -> Iterator[int]:
        for number in itertools.count():
            yield number
            if stop.wait(0.02):
                return

    seen = list(itertools.takewhile(lambda item: item is not None, Arriving(drops())))
    stop.set()
    assert seen == list(range(len(seen))) and seen


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_nothing_is_lost_or_turned_around(count: int) -> None:
    assert [item for item in Arriving(range(count)) if item is not None] == list(range(count))


def test_what_goes_wrong_is_raised_after_all_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("line 3")

    seen: list[int | None] = []
    with pytest.raises(ValueError, match="line 3"):
        seen.extend(Arriving(broken()))
    assert [item for item in seen if item is not None] == [1, 2]


def test_the_thread_reads_no_further_than_it_may_and_ends_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving, "AHEAD", 10)
    read = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    items = iter(Arriving(numbers()))
    first = next(items)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "reader"]
    items.close()  # type: ignore[attr-defined]
    thread.join(timeout=PATIENCE)
    assert first == 0 and not thread.is_alive() and len(read) <= 2 * 10 + 2
