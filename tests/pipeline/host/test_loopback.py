"""The ranks of one host meet, and talk, where no other host can reach them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from pipeline.host import ports, rendezvous

RANK = """import json, os, sys, psutil, torch, torch.distributed as dist
from pipeline.training import ranks
ranks.start(1)
shared = torch.ones(4); dist.all_reduce(shared)
listening = [list(c.laddr) for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN]
print(json.dumps({"sum": shared.tolist(), "listening": listening}))
sys.stdout.flush(); dist.barrier(); os._exit(0)"""


def test_ranks_of_one_host_listen_on_loopback_alone(tmp_path: Path) -> None:
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ports.free_port()), "LOCAL_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RANK], stdout=subprocess.PIPE, text=True,
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"},
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in started:
        output, _ = process.communicate(timeout=300)
        found = json.loads(output.splitlines()[-1])
        assert process.returncode == 0 and found["sum"] == [2.0] * 4
        assert found["listening"], "gloo listens for the other rank"
        assert {address for address, _ in found["listening"]} == {"127.0.0.1"}


def test_the_interface_of_one_host_is_loopback_unless_the_user_says_another() -> None:
    loopback = next(
        name for name, found in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in found)
    )
    for address in ("127.0.0.1", "localhost"):
        environment = {"MASTER_ADDR": address, "NCCL_SOCKET_IFNAME": "mine"}
        assert rendezvous.choose_interface(environment) is None
        assert environment["GLOO_SOCKET_IFNAME"] == loopback and environment["NCCL_SOCKET_IFNAME"] == "mine"
