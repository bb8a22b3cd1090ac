"""The folder of a call that fills it seed by seed: until all is done it says what it was begun with, and the same call goes on.

Knows files; nothing of what is trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.files import locked, read_json, remove_abandoned, write_text

BEGUN, LOCK = ".begun.json", ".lock"


def check_place(out: Path) -> None:
    """ValueError where a folder holds something that no unfinished call has left."""
    remove_abandoned(out / BEGUN)
    if out.exists() and not (out / BEGUN).exists() and not _is_empty(out):
        raise ValueError(f"--out {out}: is not empty; give a new folder")


@contextmanager
def held(out: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """The folder for this process alone; what it was begun with is forgotten when the block ends well, or nothing is there.

    identity: what must be the same whenever it is gone on with; plain values.

    Raises:
        ValueError: another process has it, it holds something else, or was begun with another identity; says what differs.
    """
    with locked(out / LOCK, wait=False):
        try:
            check_place(out)
            _begin(out, json.loads(json.dumps(identity)))
            yield
            (out / LOCK).unlink(missing_ok=True)  # first: whoever is killed in between goes on with what is all done
            (out / BEGUN).unlink()
        finally:
            (out / LOCK).unlink(missing_ok=True)
            if _is_empty(out):
                (out / BEGUN).unlink(missing_ok=True)
                out.rmdir()


def _begin(out: Path, identity: dict[str, Any]) -> None:
    path = out / BEGUN
    if not path.exists():
        write_text(path, json.dumps(identity, indent=1, ensure_ascii=False) + "\n")
        return
    before = read_json(path, "give a new folder")
    for name, value in identity.items():
        if before.get(name) != value:
            raise ValueError(
                f"--out {out}: was begun with other {name} and is not finished; give a new folder, or what it was begun with"
            )
    print(f"note: {out}: was begun before, and is gone on with", file=sys.stderr)


def _is_empty(out: Path) -> bool:
    return all(path.name in (BEGUN, LOCK) for path in out.iterdir())
