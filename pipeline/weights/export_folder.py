"""The folder of an export: made beside its place, renamed when it is whole, gone where it was not finished.

Knows folders, locks and disks; nothing of what an export holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from data_prep.files import TEMPORARY_SUFFIX, temporary_name
from pipeline.host.file_modes import give_usual_modes

ASIDE_SUFFIX = ".replaced"
"""Of a former export while the new one takes its place."""


@contextmanager
def new_folder(out: Path, size: int) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and is removed where it does not.

    size: bytes that will be written. ValueError where the disk has not so many.
    """
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = temporary_name(out)
        shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(out.parent).free
        if free < size:
            raise ValueError(
                f"{out}: the export takes {size:,} bytes and the disk has {free:,} left, {size - free:,} too few; make room or "
                "give another place"
            )
        folder.mkdir()
        held = _hold(folder)
    except OSError as error:
        raise ValueError(f"{out}: cannot be written ({error.strerror}); give another place") from None
    try:
        yield folder
        give_usual_modes(folder)
        _put_in_place(folder, out)
    except (OSError, SafetensorError) as error:
        written = sum(path.stat().st_size for path in folder.glob("*"))
        free = shutil.disk_usage(out.parent).free
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        lack = max(size - written - free, 0)
        raise ValueError(
            f"{out}: cannot be written ({reason}); it takes {size:,} bytes, {written:,} were written, {free:,} are left"
            + (f", {lack:,} too few" if lack else "")
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _put_in_place(folder: Path, out: Path) -> None:
    aside = out.with_name(f".{out.name}.{os.getpid()}{ASIDE_SUFFIX}")
    if not out.exists():
        folder.rename(out)
        return
    held = _hold(out)
    try:
        out.rename(aside)
        try:
            folder.rename(out)
        except OSError:
            aside.rename(out)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        os.close(held)


def clear_killed(out: Path) -> list[str]:
    """Remove what killed exports to `out` have left, and put back what one of them had moved aside; notes of that."""
    out, notes = out.absolute(), []
    ours = re.compile(rf"\.{re.escape(out.name)}\.\d+({re.escape(TEMPORARY_SUFFIX)}|{re.escape(ASIDE_SUFFIX)})")
    for left in sorted(out.parent.glob(f".{glob.escape(out.name)}.*")):
        if not ours.fullmatch(left.name) or left.is_symlink() or not left.is_dir() or not _is_free(left):
            continue
        if left.name.endswith(ASIDE_SUFFIX) and not out.exists():
            left.rename(out)
            notes.append(f"{out}: was put back; an export was killed while it replaced it")
        else:
            shutil.rmtree(left, ignore_errors=True)
    return notes


def _hold(folder: Path) -> int:
    """Lock a folder for as long as the returned descriptor is open; where its file system has no locks, only open it."""
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _is_free(folder: Path) -> bool:
    """Whether no living export holds a folder; False where nobody can tell."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
