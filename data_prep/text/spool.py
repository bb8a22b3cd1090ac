"""Where a shard's text lies: a stretch of a file that can be read from anywhere, or of what was kept of an archive.

A file that can be read from anywhere is plain text, or frames with a table (see `frames`). Any other archive is decoded
once: while it is planned, the text of each shard that is still to be made goes to a file of its own, which any worker can
read and which is deleted as soon as the shard is published, so that text and token files together take no more room than
the token files will.
"""

from __future__ import annotations

import fcntl
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from data_prep.files import locked, size_and_time
from data_prep.text.blocks import BLOCK_BYTES, line_blocks
from data_prep.text.compression import archive_errors
from data_prep.text.frames import open_at
from data_prep.text.readers import TextFile

PREFIX = ".spool-"


@dataclass(frozen=True)
class Spool:
    """A run's folder for the text of archives, and the data folder whose finished shards need none."""

    folder: Path
    data_dir: Path

    def wants(self, stem: str) -> bool:
        """Whether the shard has no marker yet."""
        return not (self.data_dir / f"{stem}.json").exists()


@contextmanager
def spool_in(data_dir: Path) -> Iterator[Spool]:
    """A folder for the length of a run; those of killed runs are deleted first."""
    with ExitStack() as stack:
        with locked(data_dir / "locks" / "manifest.lock", wait=True):
            for abandoned in data_dir.glob(f"{PREFIX}*"):
                _delete_unless_held(abandoned)
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=data_dir))
            stack.enter_context(locked(folder / "lock", wait=False))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Spool(folder, data_dir)


def _delete_unless_held(folder: Path) -> None:
    try:
        with open(folder / "lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except (BlockingIOError, FileNotFoundError):
        return  # at work, or just deleted by its own run


@dataclass(frozen=True)
class TextPiece:
    """One side of a shard's text: bytes `start` to `end` of the text of a file that can be read from anywhere."""

    path: Path
    """The file."""
    start: int
    """Where the text begins in the file's text."""
    end: int
    """Where it ends there."""
    name: TextFile
    """The source's file, for messages."""
    identity: tuple[int, int] | None
    """Size and time of change (ns) that the file must still have; None for a spooled one."""

    def blocks(self) -> Iterator[bytes]:
        """The text in blocks of whole lines.

        Raises:
            ValueError: the file has changed since it was planned.
        """
        return line_blocks(self._raw_blocks(), self.name)

    def _raw_blocks(self) -> Iterator[bytes]:
        with open(self.path, "rb", buffering=0) as file, archive_errors(self.path):
            if self.identity is not None and self.identity != size_and_time(file.fileno()):
                raise ValueError(changed(self.name))
            text = open_at(file, self.path, self.start)
            left = self.end - self.start
            while left and (raw := text.read(min(left, BLOCK_BYTES))):
                left -= len(raw)
                yield raw
        if left:
            raise ValueError(changed(self.name))

    def discard(self) -> None:
        """Delete the text of a shard that is published, if it was spooled."""
        if self.identity is None:
            self.path.unlink(missing_ok=True)


def changed(path: TextFile) -> str:
    """The message for a source that is no longer what was planned."""
    return f"{path}: changed while it was read; run the command again"


class SpoolWriter:
    """Takes a source's text as it is cut into shards and keeps each wanted shard's sides in files of their own.

    A context manager; after an error nothing is kept.

    Args:
        path_of: where the text of a shard (by index) and side goes; None for a shard that is not wanted.
        starts: where the text begins on each side.
    """

    def __init__(self, path_of: Callable[[int, int], Path | None], starts: Sequence[int]) -> None:
        self._path_of = path_of
        self._positions = list(starts)
        self._shard = 0
        self._files: list[io.FileIO | None] = [None] * len(starts)
        self._written: list[Path] = []

    def __enter__(self) -> SpoolWriter:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if kind is not None:
            for path in self._written:
                path.unlink(missing_ok=True)

    def _begin(self) -> None:
        paths = [self._path_of(self._shard, side) for side in range(len(self._files))]
        self._written += [path for path in paths if path]
        self._files = [io.FileIO(path, "wb") if path else None for path in paths]

    def _end(self) -> None:
        for file in self._files:
            if file:
                file.close()

    def add(self, texts: Sequence[bytes], ends: Sequence[Sequence[int]]) -> None:
        """Keep the next text of each side. `ends`: the shards that end inside it, where each ends on each side."""
        rests = list(texts)
        for end in ends:
            cuts = [stop - position for stop, position in zip(end, self._positions, strict=True)]
            self._write([rest[:cut] for rest, cut in zip(rests, cuts, strict=True)])
            rests = [rest[cut:] for rest, cut in zip(rests, cuts, strict=True)]
            self._end()
            self._shard += 1
            self._begin()
        self._write(rests)

    def _write(self, texts: Sequence[bytes]) -> None:
        for side, (file, text) in enumerate(zip(self._files, texts, strict=True)):
            self._positions[side] += len(text)
            left = memoryview(text)
            while file and left:
                left = left[file.write(left) :]
