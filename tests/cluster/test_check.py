"""Every mistake in hosts, files and network is found by `./launch.sh check` in under a minute, with a line that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root
REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 60
Check = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def check(cluster: Any) -> Iterator[Check]:
    """Runs `./launch.sh check words…` on node0; hosts and config as they should be unless words say otherwise."""
    variables = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'kernels'}", "DS_ACCELERATOR": "cpu"}
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        cluster.box.command("node0", sys.executable, Path(__file__).with_name("checker.py"), folder=cluster.folder),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables, "PATH": tools},
    )  # fmt: skip
    assert process.stdin and process.stdout
    process.stdout.readline()

    def run(*words: object, hostfile: Path | None = None, **environment: str) -> dict[str, Any]:
        options = ["--hostfile", str(hostfile or cluster.hosts(2)), str(cluster.config)]
        case = {"words": [*options, *map(str, words)], "environment": environment}
        process.stdin.write(json.dumps(case) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield run
    process.stdin.close()
    process.wait(10)


def check_found(result: dict[str, Any], *parts: str) -> None:
    """One line on standard error holds all of `parts`, the table shows a failure, and it was quick."""
    lines = result["errors"].splitlines()
    assert any(all(part in line for part in parts) for line in lines), result["output"] + result["errors"]
    assert all(line.startswith("error: ") for line in lines)
    assert "FAILED" in result["output"]
    assert result["code"] == 1
    assert result["seconds"] < LIMIT_SECONDS


@pytest.fixture
def on_node1(cluster: Any) -> Iterator[Callable[..., None]]:
    """Puts another file or folder in the place of one, as node1 alone sees it."""
    covered: list[Path] = []

    def run(*words: object) -> None:
        subprocess.run(cluster.box.command("node1", *words), check=True, capture_output=True)

    def cover(place: Path, content: str | None = None, *options: str) -> None:
        if content is None:
            run("mount", "-t", "tmpfs", *options, "tmpfs", place)
        else:
            other = cluster.folder / f"other-{place.name}"
            other.write_text(content)
            run("mount", "--bind", other, place)
        covered.append(place)

    yield cover
    for place in covered:
        run("umount", place)


def test_good_hosts_pass_and_reduce_over_all_ranks(check: Check) -> None:
    result = check()
    assert result["code"] == 0, result["output"] + result["errors"]
    assert "16 MiB over 2 ranks in" in result["output"] and "GB/s a rank" in result["output"]
    assert "eth0 on 2, by route" in result["output"]
    assert result["seconds"] < LIMIT_SECONDS


def test_unknown_host(check: Check, cluster: Any) -> None:
    result = check(hostfile=cluster.hostfile("node0 slots=1", "node9 slots=1"))
    check_found(result, "ssh: node9: node9 is no known host", "correct its name in the hostfile")


def test_host_without_our_key(check: Check, cluster: Any) -> None:
    keys = cluster.box.state / "node1" / "authorized_keys"
    content = keys.read_text()
    keys.write_text("")
    try:
        check_found(check(), "ssh: node1: ssh: permission denied", "ssh-copy-id node1")
    finally:
        keys.write_text(content)


def test_more_slots_than_cores(check: Check, cluster: Any) -> None:
    has = len(os.sched_getaffinity(0))
    result = check(hostfile=cluster.hostfile("node0 slots=1", f"node1 slots={has + 1}"))
    check_found(
        result, f"slots: node1: slot {has} of slots 0 to {has}: it has {has} cores", f"write slots={has} or fewer"
    )


def test_other_torch(check: Check, on_node1: Callable[..., None]) -> None:
    metadata = importlib.metadata.distribution("torch")
    version = metadata.version
    place = Path(str(metadata.locate_file(""))) / f"torch-{version}.dist-info" / "METADATA"
    on_node1(place, place.read_text().replace(f"Version: {version}", "Version: 1.0.0", 1))
    check_found(check(), f"packages: node1: torch 1.0.0, here {version}", "run ./launch.sh setup there")


def test_other_commit(check: Check, on_node1: Callable[..., None]) -> None:
    words = [
        "git",
        "-c",
        f"safe.directory={REPOSITORY}",
        "-C",
        str(REPOSITORY),
        "rev-parse",
        "--path-format=absolute",
        "--git-path",
        "HEAD",
    ]
    head = Path(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
    on_node1(head, "1" * 40 + "\n")
    check_found(check(), "code: node1: commit 111111111111, here", "git checkout")


def test_same_commit_with_a_change(check: Check, on_node1: Callable[..., None]) -> None:
    place = REPOSITORY / "pipeline" / "version.py"
    on_node1(place, place.read_text() + "# changed\n")
    check_found(check(), "code: node1: code differs from this host's, same commit", "git status")


def test_other_config(check: Check, cluster: Any, on_node1: Callable[..., None]) -> None:
    on_node1(cluster.config, cluster.config.read_text() + "# changed\n")
    check_found(check(), f"config: node1: {cluster.config} differs from this host's", "copy it there")


def test_missing_data(check: Check, cluster: Any, on_node1: Callable[..., None]) -> None:
    on_node1(cluster.folder / "data" / "mono")
    check_found(
        check(),
        "data: node1: ",
        "/data/mono/",
        "no such file or directory (and 1 more)",
        "mount or copy the whole data folder",
    )


def test_read_only_checkpoint_folder(check: Check, cluster: Any, on_node1: Callable[..., None]) -> None:
    subprocess.run(cluster.box.command("node1", "mount", "--bind", cluster.folder, cluster.folder), check=True)
    try:
        subprocess.run(cluster.box.command("node1", "mount", "-o", "remount,ro,bind", cluster.folder), check=True)
        check_found(check(), "run.out: node1: ", "is not writable (Read-only file system)", "mount it writable")
    finally:
        subprocess.run(cluster.box.command("node1", "umount", cluster.folder), check=True)


def test_checkpoint_folder_that_is_not_shared(check: Check, cluster: Any, on_node1: Callable[..., None]) -> None:
    (cluster.folder / "own").mkdir()
    on_node1(cluster.folder / "own")
    check_found(
        check(f"run.out={cluster.folder}/own"),
        "run.out: node1: ",
        "is another folder than here",
        "that all hosts share",
    )


def test_interface_that_a_host_has_not(check: Check) -> None:
    check_found(
        check(GLOO_SOCKET_IFNAME="ib0"),
        "interface: node1: GLOO_SOCKET_IFNAME=ib0: no such interface",
        "eth0 10.99.7.11",
        "unset it",
    )


def test_interface_that_leads_nowhere(check: Check) -> None:
    check_found(check(GLOO_SOCKET_IFNAME="lo"), "interface: node1: lo (127.0.0.1)", "unset GLOO_SOCKET_IFNAME")


def test_taken_port(check: Check, cluster: Any) -> None:
    listen = "import socket, sys; s = socket.create_server(('', 29500)); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        cluster.box.command("node0", sys.executable, "-c", listen), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin and holder.stdout
    holder.stdout.readline()
    try:
        check_found(check(), "ports: node0: port 29500: address already in use", "--master_port")
        assert check("--master_port", 29501)["code"] == 0
    finally:
        holder.stdin.close()
        holder.wait(10)


def test_blank_line_in_the_environment_file(check: Check, cluster: Any) -> None:
    place = cluster.folder / ".deepspeed_env"
    place.write_text("A=1\n\nB=2\n")
    try:
        check_found(check(), f"environment files: here (node0): {place}:2: a blank line", "delete it")
    finally:
        place.unlink()


def test_firewall_between_hosts(check: Check, cluster: Any) -> None:
    cluster.box.firewall("node1", "1024-65535")
    try:
        check_found(check(), "ports: node0: cannot connect to node1:", "open all TCP ports between the hosts")
    finally:
        cluster.box.firewall("node1")


def test_host_that_is_off_or_unplugged(check: Check, cluster: Any) -> None:
    cluster.box.unplug("node1")
    try:
        check_found(check(), "ssh: node1: ssh: no answer", "is node1 on")
    finally:
        cluster.box.plug("node1")


def test_clock_that_is_off(check: Check, cluster: Any) -> None:
    """Namespaces share the clock: the skew is put into the agent's answer."""
    from pipeline.cluster.preflight.findings import Findings, Job
    from pipeline.cluster.preflight.hosts import clocks

    class Skewed:
        def __init__(self) -> None:
            self.gone: dict[str, str] = {}

        def ask(self, *_: object, **__: object) -> dict[str, dict[str, float]]:
            return {"node0": {"time": time.time()}, "node1": {"time": time.time() - 90}}

    findings = Findings(Job({"node0": [0], "node1": [0]}), Skewed())  # type: ignore[arg-type]
    findings.make("clocks", clocks)
    assert [failure.what for failure in findings.failures["clocks"]] == ["its clock is 90 s off"]


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        (["node0 slots=1", "node0 slots=1"], ":2: node0 is there already"),
        (["node0:1"], ":1: 'node0:1'; write `host slots=N`"),
        (["# none"], "names no host"),
    ],
)
def test_hostfile_that_is_none(check: Check, cluster: Any, lines: list[str], part: str) -> None:
    result = check(hostfile=cluster.hostfile(*lines))
    assert result["code"] == 1
    assert len(result["errors"].splitlines()) == 1
    assert part in result["errors"]
