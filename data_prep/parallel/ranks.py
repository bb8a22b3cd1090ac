"""The ranks of an MPI job: rank 0 runs the command, the others work on the shares that it deals out and report to it.

Knows nothing of sources or shards; only shares of a plan and results travel, never text. Without mpiexec there is one
rank and MPI is not even imported: without an MPI library that import fails.
"""

from __future__ import annotations

import heapq
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NoReturn, TypeVar

from data_prep.parallel import wire

Share = TypeVar("Share")
Result = TypeVar("Result")

# Number of ranks and own rank, as MPICH and its kin, Open MPI, and Slurm's srun announce them before MPI is there.
# (SLURM_NTASKS would not do: a batch script has it too, and runs once.)
LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
POLL_SECONDS = 0.01
LAST_WORDS_SECONDS = 0.5  # mpiexec passes on what a rank prints, and drops what is under way when the rank aborts


class Ranks:
    """The processes of this job, seen from one of them."""

    comm: Any
    """MPI's communicator of all ranks; None where there is but one."""
    rank: int
    """This process, from 0."""
    size: int
    """How many there are."""

    def __init__(self, comm: Any = None) -> None:
        self.comm = comm
        self.rank = comm.Get_rank() if comm else 0
        self.size = comm.Get_size() if comm else 1
        self.spreading = False

    def spread(self, work: Callable[[Share], Iterator[Result]], shares: Sequence[Share]) -> Iterator[Result]:
        """Yield what `work(shares[r])` yields on every rank r, in the order of arrival. Called on rank 0 only.

        `work`, shares and results are such as `wire` encodes, and small. Where `work` raises on another rank, that rank tells
        why and ends the whole job.
        """
        assert self.rank == 0 and len(shares) == self.size, "rank 0 deals one share to each rank"
        self.spreading = True
        for rank in range(1, self.size):
            self._send((work, shares[rank]), rank)
        busy = set(range(1, self.size))
        for result in work(shares[0]):
            yield result
            yield from self._arrived(busy)
        while busy:
            yield from self._arrived(busy)
            time.sleep(POLL_SECONDS)
        self.spreading = False

    def _arrived(self, busy: set[int]) -> Iterator[Any]:
        """Results that other ranks have sent by now; those that are done leave `busy`."""
        while busy and self.comm.iprobe():
            rank, done, result = self._receive()
            if done:
                busy.remove(rank)
            else:
                yield result

    def serve(self) -> int:
        """Work for rank 0 until it ends; its exit code."""
        while True:
            # a blocking receive would keep a core busy: MPI libraries poll without a pause
            while not self.comm.iprobe(source=0):
                time.sleep(POLL_SECONDS)
            message = self._receive(source=0)
            if isinstance(message, int):
                return message
            work, share = message
            sent = [self._begin_to_send((self.rank, False, result)) for result in work(share)]
            sent.append(self._begin_to_send((self.rank, True, None)))
            while not all(request.Test() for request, _ in sent):
                time.sleep(POLL_SECONDS)

    def end(self, code: int) -> None:
        """Let the other ranks end with this code; those in the middle of work are stopped."""
        if self.spreading:
            self.abort(code)
        for rank in range(1, self.size):
            self._send(code, rank)

    def _send(self, message: Any, rank: int) -> None:
        # With a capital: mpi4py's own `send` pickles, and a pickle would be code of whoever sent it.
        self.comm.Send(bytearray(wire.encode(message)), rank)

    def _begin_to_send(self, message: Any) -> tuple[Any, bytearray]:
        """To rank 0: the request, and the content, which must be kept until it is done."""
        content = bytearray(wire.encode(message))
        return self.comm.Isend(content, 0), content

    def _receive(self, source: int | None = None) -> Any:
        """The next message, from any rank where none is named."""
        from mpi4py import MPI

        status = MPI.Status()
        self.comm.Probe(MPI.ANY_SOURCE if source is None else source, status=status)
        content = bytearray(status.Get_count(MPI.BYTE))
        self.comm.Recv(content, status.Get_source(), status.Get_tag())
        return wire.decode(bytes(content))

    def abort(self, code: int) -> NoReturn:
        """End every rank at once: one that just leaves would let the others wait for ever."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(LAST_WORDS_SECONDS)
        self.comm.Abort(code)
        os._exit(code)  # MPI may leave the killing to mpiexec and return


def spread_evenly(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Deal things of these sizes into parts: longest first, each to the part that has least. Their indices, in order."""
    least = [(0, part) for part in range(parts)]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        load, part = heapq.heappop(least)
        dealt[part].append(index)
        heapq.heappush(least, (load + sizes[index], part))
    return [sorted(part) for part in dealt]


@cache
def world() -> Ranks:
    """The ranks of this job.

    Raises:
        ValueError: there are several by the environment, but mpi4py or its MPI library is missing or another one.
    """
    size, _ = _announced()
    if size == 1 and "mpi4py.MPI" not in sys.modules:
        return Ranks()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another library's mpiexec, which is an error below
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{size} MPI ranks, but no MPI ({reason}); pip install mpi4py mpich") from None
    if MPI.COMM_WORLD.Get_size() < size:
        library = MPI.Get_library_version().split()[0]
        raise ValueError(
            f"{size} MPI ranks were started but mpi4py's library ({library}) sees one: start them with the mpiexec of "
            "that library"
        )
    return Ranks(MPI.COMM_WORLD) if MPI.COMM_WORLD.Get_size() > 1 else Ranks()


def _announced() -> tuple[int, int]:
    """How many ranks the launcher says there are, and which one this is."""
    for size, rank in LAUNCHERS:
        if os.environ.get(size, "").isdigit() and os.environ.get(rank, "").isdigit():
            return int(os.environ[size]), int(os.environ[rank])
    return 1, 0


def run_on_ranks(command: Callable[[], int], print_error: Callable[[str], None]) -> int:
    """Run a command on rank 0, which prints and gives the exit code; the other ranks work for it.

    An error of another rank is told by that rank, and ends the job.
    """
    try:
        ranks = world()
    except ValueError as error:
        # every rank finds the same; one tells it
        if _announced()[1] == 0:
            print_error(str(error))
        return 1
    if ranks.size == 1:
        return command()
    try:
        code = command() if ranks.rank == 0 else ranks.serve()
    except (ValueError, OSError) as error:
        print_error(f"rank {ranks.rank} on {platform.node()}: {error}")
        ranks.abort(1)
    except KeyboardInterrupt:
        ranks.abort(130)
    except BaseException:
        traceback.print_exc()
        ranks.abort(1)
    if ranks.rank == 0:
        ranks.end(code)
    return code
