"""Who does what of the work that several commands share, and the processes that a command starts for it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from data_prep.files import claimed
from pipeline.xtreme import sharing, workers
from pipeline.xtreme.sharing import LOCKS, Unit, share
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.01)


@dataclass
class Chain:
    """Units, of which each is there to be done once the ones before are: folders of `out`, made when they are done."""

    out: Path
    names: Sequence[str]
    at_once: int = 1
    made: list[str] = field(default_factory=list)
    broken: str = ""

    def units(self) -> list[Unit]:
        left = [name for name in self.names if not (self.out / name).exists()]
        return [Unit(name, (self.out / name,), lambda name=name: self._make(name)) for name in left[: self.at_once]]  # type: ignore[misc]

    def _make(self, name: str) -> None:
        if name == self.broken:
            raise ValueError(f"{name}: is damaged")
        self.made.append(name)
        (self.out / name).mkdir()


def test_several_do_every_unit_once_and_all_end_when_all_is_done(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(40)]
    chains = [Chain(tmp_path, names, at_once=5) for _ in range(4)]
    threads = [threading.Thread(target=share, args=(tmp_path, [chain])) for chain in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for chain in chains for name in chain.made) == names


def test_what_others_are_at_is_waited_for_and_done_when_they_die(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Chain(tmp_path, ["a", "b", "c"], at_once=2)
    with claimed(tmp_path / LOCKS / "a") as mine:
        assert mine
        thread = threading.Thread(target=share, args=(tmp_path, [here]))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and here.made == ["b", "c"]
    thread.join()
    assert here.made == ["b", "c", "a"]
    assert capsys.readouterr().err == "waiting for other commands, which are at: a\n"


def test_a_group_that_fails_is_told_once_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = Chain(tmp_path, ["a", "b"], broken="a"), Chain(tmp_path, ["c", "d"])
    assert share(tmp_path, [bad, good]) == {0: "a: is damaged"}
    assert not bad.made and good.made == ["c", "d"]
    assert capsys.readouterr().err == "not done: a: is damaged\n"


def test_a_claim_is_one_s_alone_until_it_ends(tmp_path: Path) -> None:
    with claimed(tmp_path / "lock") as first, claimed(tmp_path / "lock") as second:
        assert first and not second
    with claimed(tmp_path / "lock") as again:
        assert again


@pytest.mark.parametrize(("given", "names"), [(None, ["0", "1", "2"]), ("3, GPU-4,7", ["3", "GPU-4", "7"])])
def test_gpus_have_the_names_by_which_a_process_is_given_one(
    monkeypatch: pytest.MonkeyPatch, given: str | None, names: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(workers.VISIBLE, raising=False)
    if given is not None:
        monkeypatch.setenv(workers.VISIBLE, given)
    assert workers.gpus() == names


def test_processes_take_the_gpus_in_turn_and_what_they_say_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = f"os.environ['{workers.VISIBLE}'], os.environ['OMP_NUM_THREADS']"
    script = f"import os, sys; print({names}, *sys.argv[1:]); sys.exit(sys.argv[2] == 'bad')"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workers.os, "sched_getaffinity", lambda process: set(range(7)))
    monkeypatch.setattr(workers, "PYTHON", [sys.executable, "-c", script])
    workers.run_workers(["good"], 3, ["5", "7"])
    said = capsys.readouterr()
    assert sorted(said.err.splitlines()) == [
        f"[{number}] {gpu} 2 pipeline good --jobs 1 --worker" for number, gpu in ((1, 5), (2, 7), (3, 5))
    ]
    assert not said.out
    workers.run_workers(["bad"], 1, ["5"])
    assert "note: process 1 ended with exit code 1; what it left is done here" in capsys.readouterr().err


def test_a_process_ends_with_the_one_that_started_it() -> None:
    code = "; ".join(
        (
            "import time",
            "from pipeline.xtreme.workers import end_with_parent",
            "end_with_parent()",
            "print('on', flush=True)",
            "time.sleep(600)",
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.stdin.close()
    assert process.wait(60) == -15
