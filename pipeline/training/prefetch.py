"""Batches made ahead of the step that needs them, by a thread of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(make: Callable[[int], T], first: int, end: int, ahead: int = 2) -> Generator[T]:
    """`make(first)`, …, `make(end - 1)` in order, of which up to `ahead` are made before they are asked for.

    An exception of `make` is raised where its result is asked for. Closing the iterator ends the thread.
    """
    assert ahead > 0
    pool = ThreadPoolExecutor(1, thread_name_prefix="input")
    waiting: deque[Future[T]] = deque()
    try:
        for number in range(first, end):
            while len(waiting) < ahead + 1 and number + len(waiting) < end:
                waiting.append(pool.submit(make, number + len(waiting)))
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
