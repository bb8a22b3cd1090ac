"""Work that several commands with one folder share: each takes what nobody is at, until nothing is left.

Another GPU or host takes part by giving the same command. What a command that died was at is free again, since its locks die
with it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_prep.files import claimed

LOCKS = ".locks"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Unit:
    """What one command does in one go: a training, or the retrieval of a task."""

    name: str
    folders: tuple[Path, ...]
    """That it writes, all claimed together."""
    make: Callable[[], object]


class Group(Protocol):
    """Units that fail together."""

    def units(self) -> Sequence[Unit]:
        """What is to be done now and is not finished, in order; nothing: all of it is. Later ones may depend on these."""
        ...


def share(out: Path, groups: Sequence[Group]) -> dict[int, str]:
    """Do, or see done by others, all units of all groups; why groups failed (ValueError), by their index.

    out: folder that holds the units' folders, and the locks.
    """
    failed: dict[int, str] = {}
    told: set[str] = set()
    while True:
        elsewhere: list[str] = []
        worked = False
        for index, group in enumerate(groups):
            if index in failed:
                continue
            try:
                worked |= _work(out, group, elsewhere)
            except ValueError as error:
                failed[index] = str(error)
                print(f"not done: {error}", file=sys.stderr, flush=True)
        if worked:
            continue
        if not elsewhere:
            return failed
        new = [name for name in elsewhere if name not in told]
        if new:
            told.update(new)
            print(f"waiting for other commands, which are at: {'; '.join(new)}", file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)


def _work(out: Path, group: Group, elsewhere: list[str]) -> bool:
    """Do the units of a group that nobody is at, as long as there are any; whether there were. Others' go to `elsewhere`."""
    worked = False
    while True:
        busy: list[str] = []
        for unit in group.units():
            with _taken(out, unit) as mine:
                if not mine:
                    busy.append(unit.name)
                    continue
                # It may have been finished by another command since it was listed.
                if any(unit.folders == still.folders for still in group.units()):
                    unit.make()
                worked = True
            break
        else:
            elsewhere += busy
            return worked


@contextmanager
def _taken(out: Path, unit: Unit) -> Iterator[bool]:
    with ExitStack() as stack:
        names = ["+".join(folder.relative_to(out).parts) for folder in unit.folders]
        # In one order for all, though nobody waits: of two commands that want the same, one gets it.
        yield all(stack.enter_context(claimed(out / LOCKS / name)) for name in sorted(names))
