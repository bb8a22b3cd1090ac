"""Durable files: hashes, publication by temporary name, fsync and rename, and locks between processes.

Knows bytes and folders only; nothing about what a shard, a tokenizer or a manifest holds.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import psutil

BLOCK_BYTES = 1 << 20
TEMPORARY_SUFFIX = ".tmp"


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one JSON form of a value: sorted keys, two spaces, UTF-8, final newline. Equal values give equal bytes."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def sha256_of_json(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def size_and_time(file: Path | int) -> tuple[int, int]:
    """Size and time of change (ns) of a file, named or open: what tells that it is still the one that was looked at."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


def temporary_name(path: Path) -> Path:
    """Where this process writes a file before it is published: same folder, so that the rename is atomic, and hidden."""
    return path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")


def remove_abandoned(path: Path) -> None:
    """Delete what processes that were killed had written of a file; what a running one is writing stays."""
    beginning = f".{path.name}."
    for left in path.parent.glob(f"{glob.escape(beginning)}*{TEMPORARY_SUFFIX}"):
        process = left.name.removeprefix(beginning).removesuffix(TEMPORARY_SUFFIX)
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)


def remove_temporaries(folder: Path, name: str) -> None:
    """Delete what killed processes were writing in a folder under names that begin with `name`."""
    for path in folder.glob(f".{name}*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and deletions in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes survive a power cut."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def publish(path: Path) -> None:
    """Give a file written under `temporary_name(path)` its real name, durably: fsync, rename, fsync of the folder."""
    sync_file(temporary_name(path))
    os.replace(temporary_name(path), path)
    sync_folder(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary_name(path).write_bytes(content)
        publish(path)
    except BaseException:
        temporary_name(path).unlink(missing_ok=True)
        raise


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """See, before any work, that a file can be written at `path`; makes its folder.

    Raises:
        ValueError: it is one of `inputs` (under whatever name), a folder, or a place where nothing can be written.
    """
    for given in inputs:
        if path.exists() and given.exists() and path.samefile(given) and path.is_file():
            raise ValueError(f"{path}: is an input too and would be overwritten; give another file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give the file to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path.parent}: cannot be made ({error.strerror}); give another place") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path}: cannot be written (permission denied); give another place")


@contextmanager
def output_place(path: Path, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """Where a file is to be written that is at `path` when the block ends well and not before: beside it, and then renamed.

    A pipe, a terminal or a device is written to as it is. Raises as `check_output` does.
    """
    check_output(path, inputs)
    if path.exists() and not path.is_file():
        yield path
        return
    target = path.resolve()  # a link stays one, and what it names is replaced
    remove_abandoned(target)
    try:
        yield temporary_name(target)
        publish(target)
    finally:
        temporary_name(target).unlink(missing_ok=True)


@contextmanager
def output_file(path: Path, inputs: Iterable[Path] = ()) -> Iterator[TextIO]:
    """A UTF-8 text file at `path`, as `output_place` has it."""
    with output_place(path, inputs) as place, place.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def write_text(path: Path, text: str, inputs: Iterable[Path] = ()) -> None:
    """Write a whole UTF-8 text file as `output_file` does."""
    with output_file(path, inputs) as file:
        file.write(text)


def read_json(path: Path, advice: str) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: the file is missing or not JSON; one line that names it and ends with `advice`.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no such file; {advice}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); {advice}") from None


@contextmanager
def claimed(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the exclusive lock on `path` (made if missing), until the block ends or the process dies.

    wait: until others let go of it; without, False where another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of `claimed` until the block ends or the process dies.

    Raises:
        ValueError: `wait` is false and another process holds the lock.
    """
    with claimed(path, wait=wait) as mine:
        if not mine:
            raise ValueError(f"{path}: held by another run on the same source; wait for it to end")
        yield
