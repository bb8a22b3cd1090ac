"""Where ranks meet: a port that something holds is one line, also where it was taken between the look and the start."""

from __future__ import annotations

import socket

import pytest
import torch.distributed as dist

from pipeline.host import ports
from pipeline.training import ranks


def test_a_port_that_is_held_is_named_with_its_host() -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} is in use on {socket.gethostname()}: .*--master_port PORT"):
            ports.check_port(port)
    ports.check_port(ports.free_port())


def test_a_port_that_another_start_took_first_is_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.free_port()
    world = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in world.items():
        monkeypatch.setenv(name, value)

    def take(*_: object, **__: object) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", port))
            holder.listen()
            dist.TCPStore("127.0.0.1", port, 1, is_master=True)

    monkeypatch.setattr("deepspeed.init_distributed", take)
    with pytest.raises(ValueError, match=f"port {port} is in use on .*--master_port PORT") as caught:
        ranks.start(timeout_minutes=1)
    assert "\n" not in str(caught.value)
