"""When a run must stop to have saved before its time is over, and what travels between ranks."""

import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from pipeline.training import ranks
from pipeline.training.ranks import TimeLimit
from tests.conftest import ROOT


class Clock:
    """The time, as a test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A process that began at 1000."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    monkeypatch.setattr("time.time", lambda: pytest.fail("the wall clock may be set while a run goes on"))
    monkeypatch.setattr("pipeline.training.ranks.seconds_since_start", lambda: 0.0)
    return clock


def stops_at(limit: TimeLimit, clock: Clock, laps: list[float]) -> float | None:
    """When the limit said stop, asked after each lap."""
    for lap in laps:
        clock.now += lap
        if limit.near():
            return clock.now - 1000
    return None


def test_without_a_limit_a_run_never_stops(clock: Clock) -> None:
    assert stops_at(TimeLimit(None, 1e9), clock, [1e6] * 10) is None


def test_the_process_s_start_counts(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, 0), clock, [601]) == 601


def test_there_is_time_left_for_two_steps_and_saving(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, save_seconds=30), clock, [10.0] * 100) == 560  # 600 - 2 * 10 - 30, passed


def test_the_longest_step_counts_with_what_was_validated_and_saved_in_it(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, save_seconds=0), clock, [10.0] * 5 + [100.0] + [10.0] * 100) == 410


def test_a_start_that_took_long_is_not_taken_for_a_step(clock: Clock) -> None:
    assert stops_at(TimeLimit(10, save_seconds=0), clock, [400.0] + [10.0] * 100) == 590


def test_a_process_knows_how_long_it_has_run() -> None:
    assert ranks.seconds_since_start() == pytest.approx(time.time() - psutil.Process().create_time(), abs=1)


TRAVELS = [None, True, -1.5, float("inf"), 2**70, "é \x00", [1, [2]], {"a": [Path("/x y")]}, Path("z"), [], {}]


def _rank(rank: int, store: str) -> None:
    """One of three processes that must agree on what each of them has."""
    ranks.os.environ.update(RANK=str(rank), WORLD_SIZE="3", DS_ACCELERATOR="cpu")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    assert ranks.gather(TRAVELS[:rank]) == [*TRAVELS[:1], *TRAVELS[:2]]
    assert ranks.gather([]) == []
    assert ranks.broadcast(TRAVELS if rank == 0 else "other") == TRAVELS
    assert ranks.on_rank_0(lambda: (Path("a"), ["b"])) == [Path("a"), ["b"]]
    for error in (ValueError("v: é"), OSError(28, "No space left on device", "f")):

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises((ValueError, OSError)) as caught:
            ranks.on_rank_0(fail)
        assert str(caught.value) == str(error)
    with pytest.raises(AssertionError, match="does not travel"):
        ranks.gather([object()])
    dist.destroy_process_group()
    ranks.os._exit(0)  # as run_main: a thread of the group may abort an interpreter that is being taken down


def test_what_ranks_tell_each_other_is_json_and_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path / "store"),), nprocs=3)


def test_no_module_pickles_for_other_ranks() -> None:
    """The calls of torch.distributed and mpi4py that do."""
    root = ROOT
    words = ("_object_list(", "gather_object(", "comm.send(", "comm.recv(", "comm.isend(", "comm.bcast(")
    for path in [*root.glob("pipeline/**/*.py"), *root.glob("data_prep/**/*.py"), *root.glob("kernels/**/*.py")]:
        assert not [word for word in words if word in path.read_text(encoding="utf-8")], path
