"""Writes archives as frames that can be read from anywhere (see `frames`), whole lines in each.

Knows bytes and lines; nothing of what lines hold, of plans or shards.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import zstandard

from data_prep.files import publish, remove_abandoned, temporary_name
from data_prep.progress import ByteProgress
from data_prep.text.blocks import MAX_HELD_BYTES
from data_prep.text.compression import BUFFER_BYTES, archive_errors, uncompressed_name
from data_prep.text.frames import FOOTER, SEEKABLE_MAGIC, SKIPPABLE, SKIPPABLE_MAGIC, SUFFIX
from data_prep.text.readers import check_file, decompressed

DEFAULT_FRAME_BYTES = 4 << 20
MAX_FRAME_BYTES = 1 << 30


def rechunk_files(
    sources: list[Path], folder: Path, frame_bytes: int, level: int, threads: int
) -> Iterator[tuple[Path, int]]:
    """`rechunk` one file after the other, with progress; each result as it is there.

    Raises:
        ValueError: an option out of range, two files that would have one name, or see `rechunk`.
    """
    if not 1 <= frame_bytes <= MAX_FRAME_BYTES:
        raise ValueError(f"--frame-bytes {frame_bytes}: must be from 1 to {MAX_FRAME_BYTES}")
    if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
        raise ValueError(f"--level {level}: must be from 1 to {zstandard.MAX_COMPRESSION_LEVEL}; 3 is usual")
    if threads < 1:
        raise ValueError(f"--workers {threads}: must be at least 1")
    names = [_target(source, folder) for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name}: two of the files would have this name; give them in two runs, to two folders")
    for source in sources:
        check_file(source)
    with ByteProgress("rechunking", sum(source.stat().st_size for source in sources)) as progress:
        for source in sources:
            yield rechunk(source, folder, frame_bytes, level, threads, progress.advance)


def _target(source: Path, folder: Path) -> Path:
    return folder / f"{uncompressed_name(source.name)}{SUFFIX}"


def rechunk(
    source: Path, folder: Path, frame_bytes: int, level: int, threads: int, advance: Callable[[int], None]
) -> tuple[Path, int]:
    """Write a local file's text as frames of whole lines into a folder, under its name with `.zst` for its suffix.

    The text stays as it is, byte for byte; nothing is visible under the real name before all of it is written.

    Args:
        frame_bytes: a frame ends with the line that reaches so many bytes.
        advance: told how many more bytes of the source are read.

    Returns:
        The file written and its number of frames.

    Raises:
        ValueError: the source is missing, damaged, empty, or the file that would be written.
    """
    target = _target(source, folder)
    if target.resolve() == source.resolve():
        raise ValueError(f"{source}: would be written over itself; give another --out")
    check_file(source)
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target)
    sizes: list[int] = []
    try:
        with open(temporary_name(target), "wb") as out, archive_errors(source):
            for frame, text_bytes in _compressed(_whole_lines(source, frame_bytes, advance), level, threads):
                out.write(frame)
                sizes += (len(frame), text_bytes)
            table = np.array(sizes, dtype="<u4").tobytes() + FOOTER.pack(len(sizes) // 2, 0, SEEKABLE_MAGIC)
            out.write(SKIPPABLE.pack(SKIPPABLE_MAGIC, len(table)) + table)
        publish(target)
    except BaseException:
        temporary_name(target).unlink(missing_ok=True)
        raise
    return target, len(sizes) // 2


def _whole_lines(source: Path, frame_bytes: int, advance: Callable[[int], None]) -> Iterator[bytes]:
    """A file's text in pieces that end with a line (but for a line that is too long to be read)."""
    with open(source, "rb", buffering=0) as file, io.BufferedReader(decompressed(file, source), BUFFER_BYTES) as stream:
        told = 0
        while text := stream.read(frame_bytes):
            yield text + stream.readline(MAX_HELD_BYTES)
            advance(file.tell() - told)
            told = file.tell()


def _compressed(texts: Iterator[bytes], level: int, threads: int) -> Iterator[tuple[bytes, int]]:
    """Each text as a frame and its size; in order, compressed while the next ones are read."""
    running: deque[tuple[Future[bytes], int]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for text in texts:
            running.append((pool.submit(_frame, text, level), len(text)))
            if len(running) > threads:
                frame, size = running.popleft()
                yield frame.result(), size
        for frame, size in running:
            yield frame.result(), size


def _frame(text: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(text)
