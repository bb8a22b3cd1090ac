"""Batches made ahead of the step that needs them, by a thread of their own, and copied ahead to a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from pipeline.data.batch import MicroBatch

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


class Inputs:
    """The micro-batches of one step after another, on the device that works on them."""

    def __init__(self, steps: Iterator[list[MicroBatch]], device: torch.device) -> None:
        self._steps, self._device = steps, device
        self._next: list[MicroBatch] | None = None

    def take(self) -> list[MicroBatch]:
        """Those of the next step; StopIteration after the last."""
        found, self._next = self._next, None
        return self._copied(next(self._steps)) if found is None else found

    def fetch(self) -> None:
        """Start copying them while a GPU is still at work on this step's; on a CPU there is nothing to copy."""
        if self._device.type == "cuda" and self._next is None and (batches := next(self._steps, None)) is not None:
            self._next = self._copied(batches)

    def _copied(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        return [batch.to(self._device) for batch in batches]
