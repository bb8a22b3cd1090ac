"""What a preflight is about and what it has found: the job, the answers of its hosts, a failure for each thing to put right."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cluster.crew import Crew
from pipeline.cluster.hostfile import Hosts
from pipeline.settings.schema import Config

SECONDS = 40  # all checks, whatever happens; the connections before them may take 15
ANSWER_SECONDS = 15


@dataclass(frozen=True)
class Failure:
    host: str
    what: str
    mend: str


@dataclass
class Job:
    """What is to be checked: the hosts, how they are to be started, and the run if there is one."""

    hosts: Hosts
    launcher: str = "pdsh"
    environment: Mapping[str, str] = field(default_factory=dict)
    master_addr: str = ""
    master_port: int = 29500
    config: Config | None = None
    config_file: Path | None = None

    @property
    def on_cpu(self) -> bool:
        return self.environment.get("DS_ACCELERATOR") == "cpu"

    @property
    def interface_variable(self) -> str:
        return "GLOO_SOCKET_IFNAME" if self.on_cpu else "NCCL_SOCKET_IFNAME"


class Findings:
    """Filled by the checks; a host that fails to answer is asked no more, and that is a failure of its own.

    Attributes:
        rows: check, and what was found.
        unchecked: by check, the hosts that it could not look at, as they do not answer.
        failures: by check.
        here: this host's facts; facts: those of the others; routes: interface and address of each, by host.
    """

    def __init__(self, job: Job, crew: Crew) -> None:
        self.job, self.crew = job, crew
        self.deadline = time.monotonic() + SECONDS
        self.rows: list[tuple[str, str]] = []
        self.unchecked: dict[str, list[str]] = {}
        self.failures: dict[str, list[Failure]] = {}
        self.here: dict[str, Any] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.routes: dict[str, dict[str, Any]] = {}
        self._check = ""

    def make(self, name: str, check: Callable[[Findings], str], *, of_hosts: bool = True) -> None:
        """Make a check under its name; `of_hosts`: it looks at every host, and not only at this one."""
        self._check = name
        gone = set(self.crew.gone)
        found = check(self)
        for host in self.crew.gone.keys() - gone:
            self.fail(host, f"stopped answering ({self.crew.gone[host]})", "see that host's log, or leave it out")
        failed = {failure.host for failure in self.failures.get(name, [])}
        if of_hosts and (unseen := [host for host in self.job.hosts if host in self.crew.gone and host not in failed]):
            self.unchecked[name] = unseen
        self.rows.append((name, found))

    def fail(self, host: str, what: str, mend: str) -> None:
        self.failures.setdefault(self._check, []).append(Failure(host, what, mend))

    def ask(
        self, verb: str, each: dict[str, dict[str, Any]] | None = None, **arguments: Any
    ) -> dict[str, dict[str, Any]]:
        limit = max(1.0, min(ANSWER_SECONDS, self.deadline - time.monotonic()))
        return self.crew.ask(verb, each, limit, **arguments)

    @property
    def unfit(self) -> dict[str, str]:
        """Hosts that failed a check of their own, and the first reason."""
        found = [failure for failures in self.failures.values() for failure in failures]
        return {failure.host: failure.what for failure in reversed(found) if failure.host in self.job.hosts}

    def master_address(self) -> str:
        """Where the ranks meet: as the user says, or the first host's address on the way to the second."""
        first = next(iter(self.job.hosts))
        return self.job.master_addr or str(self.routes[first]["address"])
