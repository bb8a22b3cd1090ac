"""The processes of a run: starting their communication, agreeing on a stop, ending with one line instead of a traceback.

Knows torch.distributed, DeepSpeed's environment variables and signals; nothing of what is trained.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from data_prep.quiet import prints_hidden
from pipeline.host import rendezvous
from pipeline.host.ports import check_port, taken
from pipeline.host.room import NotWrittenError
from pipeline.host.stop import outlive_terminal

LOOPBACK_SCHEME = "loopback"  # by which PyTorch knows the way in which the ranks of one host meet
PATH = "a path"
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Variables that tell PyTorch how to take memory of GPUs: the name that all versions know, and the newer one."""
"""The only key of the JSON object that stands for one."""


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
        # The number of tokens is new in every micro-step: blocks of memory that cannot grow would be left over.
        if not any(name in os.environ for name in ALLOCATOR):
            os.environ[ALLOCATOR[0]] = "expandable_segments:True"
        accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    timeout = timedelta(minutes=timeout_minutes)
    try:
        with prints_hidden():
            deepspeed.init_distributed(
                accelerator.communication_backend_name(),
                timeout=timeout,
                init_method=f"{LOOPBACK_SCHEME}://" if rendezvous.on_loopback(os.environ) else None,
                verbose=False,
            )
    except (RuntimeError, OSError) as error:
        if "EADDRINUSE" not in str(error) and getattr(error, "errno", None) != errno.EADDRINUSE:
            raise
        raise ValueError(taken(int(os.environ["MASTER_PORT"]))) from None  # by another start, since it was looked at
    return torch.device(accelerator.current_device_name())


def _meet_on_loopback(
    url: str, timeout: timedelta = timedelta(minutes=30), **_: Any
) -> Iterator[tuple[dist.Store, int, int]]:
    """PyTorch's own meeting place listens on all interfaces, and whoever reaches it may be a rank."""
    port, listening = int(os.environ["MASTER_PORT"]), None
    if rank() == 0:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((rendezvous.LOOPBACK, port))
        listener.listen(world_size())
        listening = listener.detach()
    store = dist.TCPStore(
        rendezvous.LOOPBACK, port, world_size(), rank() == 0, timeout, master_listen_fd=listening, use_libuv=True
    )
    yield store, rank(), world_size()


dist.register_rendezvous_handler(LOOPBACK_SCHEME, _meet_on_loopback)


def set_timeouts(timeout_minutes: int) -> None:
    """The launcher's timeout does not reach groups that ZeRO makes for itself: set it on every group there is."""
    timeout = timedelta(minutes=timeout_minutes)
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_rank_0(work: Callable[[], Any]) -> Any:
    """Do `work` on rank 0 and share its result; its ValueError or OSError is raised on every rank.

    The result is what JSON has (tuples become lists), or holds paths.
    """
    result, failure = None, None
    if rank() == 0:
        try:
            result = work()
        except (ValueError, OSError) as error:
            failure = error
    told = None if failure is None else str(failure)
    result, told = broadcast([result, told])
    if failure is not None:
        raise failure
    if told is not None:
        raise ValueError(told)
    return result


def on_each_host(work: Callable[[], Any]) -> None:
    """Do `work` on one rank of each host; the first ValueError or OSError is raised on every rank."""
    failures = []
    if os.environ.get("LOCAL_RANK", "0") == "0":
        try:
            work()
        except (ValueError, OSError) as error:
            failures.append(str(error))
    told = gather(failures)
    if told:
        raise ValueError(told[0])


def broadcast(value: Any) -> Any:
    """Rank 0's value on every rank."""
    return gather([value] if rank() == 0 else [])[0]


def gather(values: list[Any]) -> list[Any]:
    """The ranks' lists, one after the other, on every rank. They travel as JSON: a pickle would be code of who sent it."""
    device = get_accelerator().current_device_name()
    own_N = torch.tensor(bytearray(_encode(values)), dtype=torch.uint8, device=device)
    sizes_R1 = torch.zeros(dist.get_world_size(), 1, dtype=torch.int64, device=device)
    dist.all_gather(list(sizes_R1), torch.tensor([len(own_N)], device=device))
    all_RN = torch.zeros(len(sizes_R1), int(sizes_R1.max()), dtype=torch.uint8, device=device)
    dist.all_gather(list(all_RN), torch.nn.functional.pad(own_N, (0, all_RN.shape[1] - len(own_N))))
    found = (
        _decode(bytes(row[:size].tolist())) for row, size in zip(all_RN.cpu(), sizes_R1.flatten().tolist(), strict=True)
    )
    return [value for part in found for value in part]


def _encode(values: list[Any]) -> bytes:
    def path(value: Any) -> dict[str, str]:
        assert isinstance(value, Path), f"{type(value)} does not travel between ranks"
        return {PATH: os.fspath(value)}

    return json.dumps(values, default=path).encode()


def _decode(content: bytes) -> list[Any]:
    values = json.loads(content, object_hook=lambda found: Path(found[PATH]) if found.keys() == {PATH} else found)
    assert isinstance(values, list)
    return values


def seconds_since_start() -> float:
    """How long this process has run, by the time since boot, which setting the clock does not change."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


class TimeLimit:
    """Says when a run must stop to have saved before its time is over, which began with the process."""

    def __init__(self, minutes: float | None, save_seconds: float) -> None:
        """minutes: None for no limit; save_seconds: what a checkpoint is expected to take."""
        began = time.monotonic() - seconds_since_start()
        self._end = None if minutes is None else began + 60 * minutes
        self._save_seconds = save_seconds
        self._asked: float | None = None
        self._longest = 0.0
        self.was_near = False

    def near(self) -> bool:
        """To be asked once a step: whether another two as long as the longest so far, and saving, might be too much."""
        now = time.monotonic()
        if self._asked is not None:
            self._longest = max(self._longest, now - self._asked)  # with what was validated and saved in between
        self._asked = now
        self.was_near = self._end is not None and now + 2 * self._longest + self._save_seconds > self._end
        return self.was_near


def run_main(main: Callable[[], None]) -> NoReturn:
    """Run a rank's main and end the process; a user's mistake is one line (from rank 0) and exit code 1."""
    code = 1
    outlive_terminal()
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
