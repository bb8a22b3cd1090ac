"""The box's commands: hosts that are apart from each other and from the machine, break as told, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root
BOX = Path(__file__).with_name("box.py")
Command = Callable[..., tuple[int, str]]


def machine() -> str:
    """The machine's own interfaces and addresses."""
    return subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def box(cluster: Any) -> Iterator[Command]:
    """A second box, of two hosts, beside the session's."""
    name = f"second{os.getpid()}"

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(BOX), *words],
            env={**os.environ, "BOX": name},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    before = machine()
    code, output = run("up", "2")
    assert code == 0, output
    assert machine() == before, "the machine itself got nothing"
    yield run
    assert run("down")[0] == 0
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert name not in namespaces
    assert not Path(run("hostfile")[1].strip()).exists()


def ssh(box: Command, to: str) -> bool:
    return box("exec", "node0", "ssh", "-o", "ConnectTimeout=1", to, "hostname") == (0, f"{to}\n")


def test_hosts_have_names_processes_and_addresses_of_their_own(box: Command) -> None:
    assert box("exec", "node1", "hostname", "-I")[1].split() == ["10.99.7.11"]
    assert ssh(box, "node1")
    processes = box("exec", "node1", "ps", "-e", "-o", "comm=")[1].split()
    assert set(processes) == {"sshd", "ps"}
    assert Path(box("hostfile")[1].strip()).read_text() == "node0 slots=1\nnode1 slots=1\n"


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (("unplug", "node1"), ("plug", "node1")),
        (("partition", "node0", "node1"), ("heal",)),
        (("firewall", "node1", "22"), ("firewall", "node1")),
        (("crash", "node1"), ("boot", "node1")),
    ],
)
def test_what_is_broken_is_cut_off_and_what_is_mended_answers(
    broken: tuple[str, ...], mended: tuple[str, ...], box: Command
) -> None:
    assert box(*broken) == (0, "")
    assert not ssh(box, "node1")
    assert box(*mended) == (0, "")
    assert any(ssh(box, "node1") for _ in range(10))


def test_a_throttled_link_is_as_slow_as_told(box: Command) -> None:
    assert box("link", "node1", "rate=8mbit") == (0, "")
    code, output = box("exec", "node0", "bash", "-c", "time -p head -c 1500000 /dev/zero | ssh node1 'cat > /dev/null'")
    assert code == 0, output
    assert 1.0 < float(output.split()[1]) < 10, "1.5 MB at 1 MB/s, but for the first quarter"
    assert box("link", "node1") == (0, "")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("up", "2"), "there is a box of this name"),
        (("crash", "node7"), "node7: no such host in this box"),
        (("boot", "node1"), "node1 is up"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], part: str, box: Command) -> None:
    code, output = box(*words)
    assert code == 1
    assert output.startswith("error: ") and len(output.splitlines()) == 1
    assert part in output
