"""Spreads independent tasks over processes and hands their results back as they finish.

Knows nothing of what a task does. One worker runs in this very process; which worker takes which task never matters.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for_end
from typing import Any, TypeVar

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")

SECONDS_TO_NOTICE = 5  # that a worker has died

_context: Any = None


def run_tasks(
    function: Callable[[Context, Task], Result],
    tasks: Iterable[Task],
    workers: int,
    context: Context,
) -> Iterator[Result]:
    """Yield `function(context, task)` for every task, in the order of completion.

    Tasks are drawn one ahead of the workers, so that their text is not all in memory at once. The context goes to each
    worker once; everything must be picklable, and the context must fit a pipe (64 kB, see `Tokenizer.kept_in`).

    Raises:
        ValueError: a worker died.
        Exception: whatever `function` raised; tasks in flight are then finished, the others dropped.
    """
    if workers == 1:
        for task in tasks:
            yield function(context, task)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (context,))
    running: set[Future[Result]] = set()
    try:
        for task in tasks:
            with without_interrupts():
                running.add(_submit(pool, running, function, task))
            if len(running) > workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool:
        raise ValueError(
            "a worker died, most likely out of memory; give fewer --workers or less --shard-bytes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, running: set[Future[Result]], *work: Any) -> Future[Result]:
    """`pool.submit`, which starts the workers. One that dies at once takes the pool's pipes from the next, which is then
    told of bad file descriptors instead of a broken pool."""
    try:
        return pool.submit(_run, *work)
    except (OSError, ValueError):
        done, _ = wait(running, timeout=SECONDS_TO_NOTICE)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            raise BrokenProcessPool from None
        raise


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Workers are started in here and stay deaf to Ctrl-C, which reaches the whole process group: the parent decides.

    This process hears it at the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(context: Any) -> None:
    global _context
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _context = context


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop: each waits for its end and follows."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in workers only"
    wait_for_end([parent.sentinel])
    os._exit(1)


def _run(function: Callable[[Any, Task], Result], task: Task) -> Result:
    return function(_context, task)
