"""Which hosts a run is given: the hostfile, and what the launcher's options leave of it, as DeepSpeed itself reads them.

A host is a name and the numbers of its slots (devices, or ranks on CPUs), in the hostfile's order, which is the ranks'.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

Hosts = dict[str, list[int]]
HOST_NAME = re.compile(r"([A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9_][\w.-]*", re.ASCII)
"""Also with the user's name before it."""
MOST_SLOTS = 1024
"""Of a host; a number beyond is a slip of the keyboard, and DeepSpeed would make a list of it."""


def read_hostfile(path: Path) -> Hosts:
    """Read lines of `name slots=N`; blank lines and those that begin with # are left out.

    Raises:
        ValueError: the file cannot be read, a line is another, a host is named twice, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(f"{path}: cannot read the hostfile ({reason}); give a file of lines `host slots=N`") from None
    hosts: Hosts = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)(\s+#.*)?", line)
        if not match or match[2] == "0":
            raise ValueError(f"{path}:{number}: {line!r}; write `host slots=N` with N of 1 or more")
        check_host_name(match[1], f"{path}:{number}")
        if len(match[2]) > len(str(MOST_SLOTS)) or int(match[2]) > MOST_SLOTS:
            raise ValueError(
                f"{path}:{number}: slots={match[2]}: a host has at most {MOST_SLOTS:,}; correct the number"
            )
        if match[1] in hosts:
            raise ValueError(f"{path}:{number}: {match[1]} is there already; one line for each host")
        hosts[match[1]] = list(range(int(match[2])))
    if not hosts:
        raise ValueError(f"{path}: names no host; write lines `host slots=N`")
    return hosts


def check_host_name(name: str, where: str) -> None:
    """ValueError, which begins with `where`, for what ssh, pdsh or a shell may take for something else than a host's name."""
    if _is_ipv6(name):
        raise ValueError(
            f"{where}: {name} is an IPv6 address, and DeepSpeed's launchers take none; give the host's name "
            "(in /etc/hosts or DNS, with an IPv4 address)"
        )
    if not HOST_NAME.fullmatch(name):
        raise ValueError(
            f"{where}: {name!r} is no host's name: letters, digits, '.', '-' and '_', and not '-' first; correct it"
        )


def select(hosts: Hosts, include: str = "", exclude: str = "", num_nodes: int = -1, num_gpus: int = -1) -> Hosts:
    """What DeepSpeed's options of these names leave, for example include="node1@node2:0,2".

    Raises:
        ValueError: options that exclude each other, an unknown host or slot, or nothing is left.
    """
    if include and exclude:
        raise ValueError("--include and --exclude: give one of them")
    if (include or exclude) and (num_nodes > 0 or num_gpus > 0):
        raise ValueError(
            "--num_nodes and --num_gpus do not go with --include or --exclude; name the hosts and slots there"
        )
    named = _parse(include or exclude, hosts, "--include" if include else "--exclude")
    if include:
        chosen = {host: named[host] for host in hosts if host in named}
    else:
        chosen = {host: [slot for slot in slots if slot not in named.get(host, [])] for host, slots in hosts.items()}
        chosen = {host: slots for host, slots in chosen.items() if slots}
    if num_nodes > 0:
        chosen = dict(list(chosen.items())[:num_nodes])
    if num_gpus > 0:
        chosen = {host: list(range(num_gpus)) for host in chosen}
    if not chosen:
        raise ValueError(f"--exclude {exclude}: no slot is left; exclude fewer")
    return chosen


def write_hostfile(path: Path, hosts: Hosts) -> None:
    """Write a hostfile in which each host has as many slots as its highest number needs."""
    lines = [f"{host} slots={max(slots) + 1}\n" for host, slots in hosts.items()]
    path.write_text("".join(lines), encoding="utf-8")


def include_of(hosts: Hosts) -> str:
    """The value of --include that chooses these slots; empty where they are all that `write_hostfile` says."""
    if all(slots == list(range(len(slots))) for slots in hosts.values()):
        return ""
    return "@".join(f"{host}:{','.join(map(str, slots))}" for host, slots in hosts.items())


def _parse(text: str, hosts: Hosts, option: str) -> Hosts:
    named: Hosts = {}
    for part in _parts(text, hosts):
        host, _, numbers = part.partition(":")
        if host not in hosts:
            user = "; a user's name belongs into ~/.ssh/config, @ is between hosts" if "@" in text else ""
            raise ValueError(f"{option} {text}: {host} is not in the hostfile{user}")
        if not re.fullmatch(r"(\d+(,\d+)*)?", numbers):
            raise ValueError(f"{option} {text}: write {host}:0,1 for slots")
        slots = [int(number) for number in numbers.split(",")] if numbers else hosts[host]
        for slot in slots:
            if slot not in hosts[host]:
                raise ValueError(f"{option} {text}: {host} has slots 0 to {len(hosts[host]) - 1}, not {slot}")
        if "@" in host and numbers and set(slots) != set(hosts[host]):
            raise ValueError(
                f"{option} {text}: DeepSpeed's launchers cannot choose slots of {host}; name it without its user, who belongs "
                "into ~/.ssh/config"
            )
        named[host] = sorted({*named.get(host, []), *slots})
    return named


def _parts(text: str, hosts: Hosts) -> list[str]:
    """The hosts with their slots, between @; one of `user@host` is one, where the hostfile has it so."""
    parts: list[str] = []
    for part in filter(None, text.split("@")):
        if parts and f"{parts[-1]}@{part.partition(':')[0]}" in hosts:
            parts[-1] += f"@{part}"
        else:
            parts.append(part)
    return parts


def _is_ipv6(name: str) -> bool:
    try:
        return ipaddress.ip_address(name.strip("[]").partition("%")[0]).version == 6
    except ValueError:
        return False
