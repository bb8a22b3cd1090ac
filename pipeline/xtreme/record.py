"""What is finished of a run over many tasks: a folder counts once its mark is written, last, with the hashes of its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_prep.files import locked, read_json, remove_abandoned, sha256_of_file, write_text

MARK = "done.json"
RUN = "run.json"
LOCK = ".lock"
PREDICTIONS = "predictions"


def finished(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """What the mark of a folder holds, None where there is none or its files are other ones; and what to say of it."""
    if not (folder / MARK).exists():
        return None, f"note: {folder}: was not finished and is done again" if folder.exists() else ""
    mark = read_json(folder / MARK, "remove the folder, and it is done again")
    for name, digest in mark["files"].items():
        path = folder / name
        if not path.exists() or sha256_of_file(path) != digest:
            return None, f"note: {path}: is not as it was written; it is done again"
    return mark, ""


@contextmanager
def making(folder: Path, facts: dict[str, Any]) -> Iterator[None]:
    """An empty folder to write into, marked as finished when the block ends well; the mark has `facts` as they are then."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {str(path.relative_to(folder)): sha256_of_file(path) for path in files}
    write_text(folder / MARK, json.dumps({**facts, "files": hashes}, indent=1, ensure_ascii=False) + "\n")


def begin(out: Path, identity: dict[str, Any]) -> None:
    """Make the folder of a run, or go on in it; others may do so at the same time.

    identity: what must be the same whenever it goes on.

    Raises:
        ValueError: it holds something else, or a run with another identity; says what differs.
    """
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, wait=True):
        remove_abandoned(out / RUN)
        if (out / RUN).exists():
            before = read_json(out / RUN, "give a new folder")
            for name, value in identity.items():
                if before.get(name) != value:
                    raise ValueError(
                        f"--out {out}: was begun with {name} {before.get(name)}, not {value}; give a new folder"
                    )
        elif any(path.name != LOCK for path in out.iterdir()):
            raise ValueError(f"--out {out}: is not empty, and no run of xtreme; give a new folder")
        else:
            write_text(out / RUN, json.dumps(identity, indent=1, ensure_ascii=False) + "\n")
