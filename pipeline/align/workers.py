"""Independent work on a CPU: as many pieces at the same time as PyTorch has threads, each on one of them.

One piece after the other, all threads on each, leaves them idle wherever a piece runs on one: Python, small operations, what
oneDNN prepares for a new shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """`map` of one argument."""

    def __call__(self, function: Callable[[T], R], pieces: Iterable[T], /) -> Iterator[R]: ...


@contextmanager
def side_by_side(workers: int) -> Iterator[Map]:
    """A `map` whose pieces `workers` threads take in turn, results in order; work begins when it is called.

    With one worker it is Python's own, in the calling thread. What is not begun when the context ends is dropped.
    """
    if workers == 1:
        yield map
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "worker", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a thread sets for itself counts for all that are made later, too
