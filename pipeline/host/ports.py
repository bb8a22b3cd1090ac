"""TCP ports on which the ranks of a run meet."""

from __future__ import annotations

import socket

from pipeline.host.rendezvous import LOOPBACK

DEFAULT = 29500
"""DeepSpeed's own, where nobody chooses another."""


def free_port() -> int:
    """A port for the ranks of this host, that the kernel chooses: two starts at the same time get two."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """ValueError where something on this host holds the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError):
            raise ValueError(taken(port)) from None


def taken(port: int) -> str:
    return f"port {port} is in use on {socket.gethostname()}: end what holds it, or start with --master_port PORT"
