"""What a preflight could not look at is neither ok nor failed: an unreachable host's clock is not within anything."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipeline.cluster.preflight.checks import OF_A_CONFIG, OF_ANY_RUN, OF_THE_NETWORK, OF_THIS_HOST, show
from pipeline.cluster.preflight.findings import Findings, Job

CHECKS = OF_ANY_RUN | OF_A_CONFIG | OF_THE_NETWORK


def rows(gone: dict[str, str]) -> dict[str, list[str]]:
    """The results in the table of all checks, where those of hosts that answer find nothing wrong."""
    crew: Any = SimpleNamespace(gone=gone, hosts=[host for host in ("a", "b") if host not in gone])
    findings = Findings(Job({"a": [0], "b": [0]}), crew)
    for name in CHECKS:
        findings.make(name, lambda on: "fine", of_hosts=name not in OF_THIS_HOST)
    drawn = io.StringIO()
    show(findings, Console(file=drawn, width=100))
    found: dict[str, list[str]] = {}
    for line in drawn.getvalue().splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:4]]
        if len(cells) == 3 and cells[0] in CHECKS:
            found.setdefault(cells[0], []).append(f"{cells[1]}: {cells[2]}")
    return found


def test_where_all_hosts_answer_all_is_ok() -> None:
    assert rows({}) == {name: ["ok: fine"] for name in CHECKS}


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_of_unreachable_hosts_is_ok(name: str) -> None:
    none, one = rows({"a": "timed out", "b": "timed out"}), rows({"b": "timed out"})
    if name in OF_THIS_HOST:
        assert none[name] == one[name] == ["ok: fine"]
    else:
        assert none[name] == ["not checked: a, b: unreachable"]
        assert one[name] == ["ok: fine", "not checked: b: unreachable"]
