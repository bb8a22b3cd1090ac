"""Is this set of hosts fit for this run? Every check that can be made before the ranks start, in under a minute.

Asks the agents on the hosts (`crew`), compares their answers with this host's, and says in a line per failure what to do;
starts nothing but a short all-reduce over all ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cluster.crew import Crew
from pipeline.cluster.preflight import hosts, network
from pipeline.cluster.preflight.findings import Findings, Job

Check = Callable[[Findings], str]
OF_ANY_RUN: dict[str, Check] = {
    "launcher": hosts.launcher,
    "environment files": hosts.environment_files,
    "ssh": hosts.ssh,
    "clocks": hosts.clocks,
    "python, packages": hosts.versions,
    "code": hosts.code,
    "slots": hosts.slots,
}
OF_THIS_HOST = ("launcher", "environment files")
OF_A_CONFIG: dict[str, Check] = {
    "config": hosts.config_files,
    "data": hosts.data,
    "run.out": hosts.shared_folder,
    "disk": hosts.disk,
}
OF_THE_NETWORK: dict[str, Check] = {"interface": network.interface, "ports": network.ports}


def preflight(job: Job, crew: Crew, reduce: bool = True) -> Findings:
    """Make all checks; the all-reduce (`reduce`) only where nothing has failed before it."""
    findings = Findings(job, crew)
    for name, check in (OF_ANY_RUN | (OF_A_CONFIG if job.config else {}) | OF_THE_NETWORK).items():
        findings.make(name, check, of_hosts=name not in OF_THIS_HOST)
    if reduce and not findings.failures:
        findings.make("all-reduce", network.all_reduce)
    return findings


def show(findings: Findings, console: Console) -> None:
    """The table of all checks on the console, then on standard error a line for each thing to put right."""
    all_hosts = findings.job.hosts
    title = f"{len(all_hosts)} hosts, {sum(map(len, all_hosts.values()))} ranks"
    table = Table(title=title, title_justify="left")
    for column in ("check", "result", "found"):
        table.add_column(column, overflow="fold")
    for name, found in findings.rows:
        failures, unseen = findings.failures.get(name, []), findings.unchecked.get(name, [])
        if not failures and len(unseen) < len(all_hosts):
            table.add_row(name, "ok", escape(found))
        if unseen:
            table.add_row(name, "not checked", f"{', '.join(unseen)}: unreachable")
        for failure in failures:
            table.add_row(name, "[bold red]FAILED[/]", escape(f"{failure.host}: {failure.what}"))
    console.print(table)
    for name, failures in findings.failures.items():
        for failure in failures:
            print(f"error: {name}: {failure.host}: {failure.what}; {failure.mend}", file=sys.stderr)
