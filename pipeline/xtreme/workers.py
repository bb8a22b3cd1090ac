"""Processes of one host that share the work of the command `xtreme`, each with a GPU of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

import torch

from pipeline.stages import PYTHON

VISIBLE = "CUDA_VISIBLE_DEVICES"
WORKER = "--worker"


def gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE)
    names = [str(index) for index in range(count)] if given is None else [name.strip() for name in given.split(",")]
    return names[:count]


def run_workers(words: Sequence[str], jobs: int, on: Sequence[str]) -> None:
    """Run the command's `words` in `jobs` processes, and hand on what they say, each line with the process's number.

    on: names of the GPUs that they take in turn; none: they have no GPU.
    """
    command = [*PYTHON, "pipeline", *words, "--jobs", "1", WORKER]
    threads_each = str(max(len(os.sched_getaffinity(0)) // jobs, 1))
    workers: list[subprocess.Popen[str]] = []
    threads = []
    try:
        for number in range(jobs):
            environment = {"OMP_NUM_THREADS": threads_each, **os.environ}
            if on:
                environment[VISIBLE] = on[number % len(on)]
            # Its standard input ends with this process, however that ends, and so does it.
            worker = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
            )
            workers.append(worker)
            assert worker.stdout is not None
            threads.append(threading.Thread(target=_hand_on, args=(worker.stdout, number + 1), daemon=True))
            threads[-1].start()
        for number, worker in enumerate(workers, 1):
            if worker.wait():
                print(
                    f"note: process {number} ended with exit code {worker.returncode}; what it left is done here",
                    file=sys.stderr,
                )
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        for thread in threads:
            thread.join()


def _hand_on(lines: IO[str], number: int) -> None:
    for line in lines:
        print(f"[{number}] {line}", end="", file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """In a process of `run_workers`: end, as by SIGTERM, when standard input does."""

    def wait() -> None:
        while os.read(0, 1):  # sys.stdin would be locked when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
