"""The processes of a run: starting their communication, agreeing on a stop, ending with one line instead of a traceback.

Knows torch.distributed, DeepSpeed's environment variables and signals; nothing of what is trained.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import deepspeed
import psutil
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from data_prep.quiet import prints_hidden
from pipeline.cluster import rendezvous
from pipeline.cluster.ports import check_port, taken
from pipeline.room import NotWrittenError


def start(timeout_minutes: int) -> torch.device:
    """Join the other ranks (as the deepspeed launcher describes them) and return this rank's device."""
    rendezvous.adopt(os.environ)
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ValueError(
            f"{missing[0]} is not set: start with `deepspeed pipeline/train.py …` or `./launch.sh train …`"
        )
    if rank() == 0 and not dist.is_initialized():
        check_port(int(os.environ["MASTER_PORT"]))
    interface = rendezvous.choose_interface(os.environ)
    accelerator = get_accelerator()
    if rank() == 0 and interface is not None:
        backend = accelerator.communication_backend_name()
        interface = os.environ.get(f"{backend.upper()}_SOCKET_IFNAME", interface)
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        print(f"{world_size()} ranks meet at {place} over {interface} with {backend}", flush=True)
    if accelerator.device_name() != "cpu":
        accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        with prints_hidden():
            deepspeed.init_distributed(
                accelerator.communication_backend_name(), timeout=timedelta(minutes=timeout_minutes), verbose=False
            )
    except RuntimeError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ValueError(taken(int(os.environ["MASTER_PORT"]))) from None  # by another start, since it was looked at
    return torch.device(accelerator.current_device_name())


def set_timeouts(timeout_minutes: int) -> None:
    """The launcher's timeout does not reach groups that ZeRO makes for itself: set it on every group there is."""
    timeout = timedelta(minutes=timeout_minutes)
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def broadcast(value: Any) -> Any:
    """Rank 0's value on every rank."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def on_rank_0(work: Callable[[], Any]) -> Any:
    """Do `work` on rank 0 and share its result; its ValueError or OSError is raised on every rank."""
    outcome: tuple[Any, Exception | None] = (None, None)
    if rank() == 0:
        try:
            outcome = (work(), None)
        except (ValueError, OSError) as error:
            outcome = (None, error)
    result, failure = broadcast(outcome)
    if failure is not None:
        raise failure
    return result


def gather(values: list[Any]) -> list[Any]:
    """The ranks' lists, one after the other, on every rank."""
    boxes: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(boxes, values)
    return [value for box in boxes for value in box]


class StopFlag:
    """Set by SIGTERM or SIGINT; the loop asks between steps, so that a step is never cut."""

    def __init__(self) -> None:
        self.set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.set = True


class TimeLimit:
    """Says when a run must stop to have saved before its time is over, which began with the process."""

    def __init__(self, minutes: float | None, save_seconds: float) -> None:
        """minutes: None for no limit; save_seconds: what a checkpoint is expected to take."""
        self._end = None if minutes is None else psutil.Process().create_time() + 60 * minutes
        self._save_seconds = save_seconds
        self._asked: float | None = None
        self._longest = 0.0
        self.was_near = False

    def near(self) -> bool:
        """To be asked once a step: whether another two as long as the longest so far, and saving, might be too much."""
        now = time.time()
        if self._asked is not None:
            self._longest = max(self._longest, now - self._asked)  # with what was validated and saved in between
        self._asked = now
        self.was_near = self._end is not None and now + 2 * self._longest + self._save_seconds > self._end
        return self.was_near


def run_main(main: Callable[[], None]) -> NoReturn:
    """Run a rank's main and end the process; a user's mistake is one line (from rank 0) and exit code 1."""
    code = 1
    try:
        main()
        code = 0
    except (ValueError, OSError) as error:
        if rank() == 0 or isinstance(error, NotWrittenError):
            print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception:
        traceback.print_exc()
    if dist.is_initialized():
        dist.destroy_process_group()
    # DeepSpeed's CPU communication leaves 66 MB a rank and port here.
    for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{os.environ.get('MASTER_PORT')}_{rank()}"):
        buffer.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: groups that DeepSpeed still refers to keep their threads, and one that asks for the interpreter while
    # it is being taken down aborts the process ("terminate called without an active exception") after all its work.
    os._exit(code)
