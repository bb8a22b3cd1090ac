"""What comes by and by, read by a thread of its own, so that work on what is there need not wait for what is not.

Knows an iterator and time; nothing of what comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

PAUSE_SECONDS = 0.1
"""Without anything new, after which what was given out is to be worked on."""
GATHER_SECONDS = 0.5
"""After which it is to be worked on even where more comes in drops."""
AHEAD = 8192
"""Items that wait at most; the thread reads no further then."""


class Arriving(Generic[T]):
    """The items of `items` in their order, and None wherever nothing more is there yet.

    What `items` raises is raised after all items before it. The thread begins with the iteration and ends with it, or where
    it waits for input that never comes, with the process.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._changed = threading.Condition()
        self._waiting: list[T] = []
        self._ended = self._closed = False
        self._problem: Exception | None = None

    def __iter__(self) -> Iterator[T | None]:
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        began: float | None = None  # when the first item was given out since the last None
        try:
            while True:
                items, ended = self._take(began)
                if items:
                    began = began or time.monotonic()
                    yield from items
                elif ended:
                    break
                else:
                    began = None
                    yield None
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
        if self._problem is not None:
            raise self._problem

    def _take(self, began: float | None) -> tuple[list[T], bool]:
        """What has come, and whether that was all; waits for it, though not long where something was given out since the
        last None."""
        with self._changed:
            if began is not None:
                patience = min(PAUSE_SECONDS, began + GATHER_SECONDS - time.monotonic())
                self._changed.wait_for(self._has_news, max(patience, 0))
            else:
                self._changed.wait_for(self._has_news)
            taken, self._waiting = self._waiting, []
            self._changed.notify_all()
            return taken, self._ended

    def _has_news(self) -> bool:
        return bool(self._waiting) or self._ended

    def _read(self) -> None:
        problem: Exception | None = None
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._waiting) < AHEAD or self._closed)
                    if self._closed:
                        return
                    self._waiting.append(item)
                    if len(self._waiting) == 1:
                        self._changed.notify_all()
        except Exception as error:
            problem = error
        with self._changed:
            self._problem, self._ended = problem, True
            self._changed.notify_all()
