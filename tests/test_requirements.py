"""What setup.cfg allows is what is tried: the newest versions by constraints.txt, the oldest by constraints-oldest.txt."""

from __future__ import annotations

import configparser
import re

from tests.conftest import ROOT

BUILT_LATER = {"mpi4py": "4.1.0"}
"""Of these the oldest that is allowed has to be compiled: the first that comes built is tried."""
_PIN = re.compile(r"([A-Za-z0-9_.-]+)==(\S+)")
_RANGE = re.compile(r"([A-Za-z0-9_.-]+)(?:\[\w+\])?>=(\S+)")


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def allowed() -> dict[str, str]:
    """By plain name the oldest version that setup.cfg allows, of what the project and its tests need."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = parser["options"]["install_requires"] + parser["options.extras_require"]["tests"]
    found = (_RANGE.fullmatch(line.strip()) for line in lines.splitlines())
    return {plain(match[1]): match[2] for match in found if match}


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = (_PIN.fullmatch(line.strip()) for line in lines)
    return {plain(match[1]): match[2] for match in found if match}


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]


def test_the_oldest_that_are_allowed_are_the_oldest_that_are_tried() -> None:
    bounds, tried = allowed(), pinned("constraints-oldest.txt")
    assert len(tried) > 20
    for name, version in tried.items():
        bound = bounds[name]
        if name in BUILT_LATER:
            assert version == BUILT_LATER[name] and numbers(version) > numbers(bound)
        else:
            assert numbers(version)[: len(numbers(bound))] == numbers(bound), name


def test_the_newest_that_are_tried_are_allowed() -> None:
    bounds, tried = allowed(), pinned("constraints.txt")
    both = bounds.keys() & tried.keys()
    assert len(both) > 20
    assert {name for name in both if numbers(tried[name]) < numbers(bounds[name])} == set()
