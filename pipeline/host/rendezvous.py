"""Where the ranks of a run meet: what each launcher's variables say, and the network interface that leads there.

Standard library only, for it is also sent to hosts that are being checked; knows nothing of torch or of the run.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Mapping, MutableMapping

# What Open MPI and Slurm call the variables that DeepSpeed's own launchers (pdsh, MPICH, none) set.
LAUNCHERS = (
    {
        "RANK": "OMPI_COMM_WORLD_RANK",
        "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
        "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
        "LOCAL_SIZE": "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"},
)
SOCKET_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOOPBACK = "127.0.0.1"
SIOCGIFADDR = 0x8915  # linux/sockios.h: an interface's IPv4 address


def adopt(environment: MutableMapping[str, str]) -> None:
    """Set RANK, WORLD_SIZE and so on from Open MPI's or Slurm's variables, where the launcher set none itself."""
    if "RANK" in environment:
        return
    for names in LAUNCHERS:
        if all(theirs in environment for theirs in names.values()):
            environment.update({ours: environment[theirs] for ours, theirs in names.items()})
            return


def on_loopback(environment: Mapping[str, str]) -> bool:
    """Whether the ranks meet where only processes of this host can, as those of one host do."""
    return environment["MASTER_ADDR"] in (LOOPBACK, "localhost")


def choose_interface(environment: MutableMapping[str, str]) -> str | None:
    """Name the interface that leads to MASTER_ADDR to gloo and NCCL, which would else guess.

    Returns that interface; None on a single host, whose ranks are told to keep to the loopback interface.

    A variable that is set already stays as it is. Every host chooses for itself: names differ between hosts.

    Raises:
        ValueError: this host does not know MASTER_ADDR, or has no route to it.
    """
    try:
        interface, address = interface_towards(environment["MASTER_ADDR"])
    except OSError as error:
        reason = f"{socket.gethostname()} cannot reach it ({error.strerror})"
        raise ValueError(f"MASTER_ADDR {environment['MASTER_ADDR']}: {reason}; give another --master_addr") from None
    if interface is None or (address.startswith("127.") and not on_loopback(environment)):
        return None
    for name in SOCKET_VARIABLES:
        environment.setdefault(name, interface)
    return None if on_loopback(environment) else interface


def interface_towards(host: str) -> tuple[str | None, str]:
    """The interface (None: no IPv4 one is known) and own address with which this host reaches another, or itself.

    Raises:
        OSError: the name is not known here, or no route leads there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing: a datagram socket only looks up the route
        address = str(probe.getsockname()[0])
    return next((name for name in interfaces() if address_of(name) == address), None), address


def interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def address_of(interface: str) -> str | None:
    """An interface's IPv4 address; None where there is no such interface, or it has none."""
    request = struct.pack("256s", os.fsencode(interface)[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])
