"""Corpus files as lines, documents and pairs: plain, .xz, .gz, .bz2 or .zst, strict UTF-8, split on the newline byte only.

Knows text layouts; nothing of tokenizers, filters or shards. What is not a local file of lines (zip, TMX, JSONL, Parquet,
datasets, remote files) becomes a stream of lines in `inputs`.

A carriage return, U+0085 or U+2028 inside a line stays part of it, so that two files stay aligned (SentencePiece makes
spaces of the first and the last, and <unk> of U+0085). A byte order mark at the start of a file is no text:
`BYTE_ORDER_MARK` is skipped by the plan.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from data_prep.text.compression import (
    BUFFER_BYTES,
    HEAD_BYTES,
    ArchiveText,
    archive_errors,
    compression_in,
    compression_of,
)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UNREAD_MAGIC = {
    "a zip archive": b"PK\x03\x04",
    "a 7-Zip archive": b"7z\xbc\xaf\x27\x1c",
    "a RAR archive": b"Rar!\x1a\x07",
    "compressed by lz4": b"\x04\x22\x4d\x18",
    "compressed by lzip": b"LZIP\x01",
    "compressed by xz's predecessor lzma": b"\x5d\x00\x00",
    "compressed by compress (.Z)": b"\x1f\x9d",
    "a Parquet file": b"PAR1",
    "a PDF document": b"%PDF-",
}
SCORE, SOURCE, TARGET, IGNORED = "score", "source", "target", "-"
# Text never holds NUL, so a line that begins with it can tell what a reader of records found instead of text.
NOTE = re.compile(rb"\x00([!-])([a-z0-9_]{1,30})\x00")


class BadRecordError(ValueError):
    """A line that is not usable text; its message is the reason under which it is counted."""


class Input(Protocol):
    """Lines that do not lie in a local file as they are; see `inputs`."""

    @property
    def name(self) -> str:
        """Name without folders."""

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open it as a stream of lines."""

    def identity(self) -> tuple[int, str]:
        """Size and sha256 of what it is read from; may read all of it."""


TextFile = Path | Input


class _Chained(io.RawIOBase):
    """A stream of which the beginning was read already, such as a pipe."""

    def __init__(self, head: bytes, rest: io.FileIO) -> None:
        self.head, self.rest = memoryview(head), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self.head:
            return self.rest.readinto(buffer) or 0
        size = min(len(buffer), len(self.head))
        buffer[:size], self.head = self.head[:size], self.head[size:]
        return size


def readable_name(name: str) -> str:
    """A file's name as text; bytes of it that are no UTF-8 as \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_file(path: Path) -> None:
    """Refuse a file that cannot be read as its name says.

    Raises:
        ValueError: missing, a folder, a pipe, empty, or its first bytes do not fit its extension.
    """
    check_regular(path)
    with open(path, "rb") as file:
        check_head(file.read(HEAD_BYTES), path)


def check_regular(path: Path) -> None:
    """Refuse what is no file with content that can be read twice."""
    check_exists(path)
    if not path.is_file():
        raise ValueError(f"{path}: is a pipe or a device, and has to be read twice; write its text to a file first")
    if not path.stat().st_size:
        raise ValueError(f"{path}: empty file; give one with text or leave it out")


def check_exists(path: Path) -> None:
    """Refuse what is not there, or is a folder."""
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a file, as in {path / '*.txt'}")
    if not path.exists():
        raise ValueError(f"{path}: no such file; check the path")


def check_head(head: bytes, path: TextFile) -> None:
    """Refuse a file whose first bytes are not what its name says; see `check_file`."""
    if not head:
        raise ValueError(f"{path}: empty file; give one with text or leave it out")
    for name, magic in UNREAD_MAGIC.items():
        if head.startswith(magic):
            raise ValueError(f"{path}: is {name}, which is not read as text; unpack it, or name it as what it is")
    named = compression_of(path.name) or "plain text"
    found = compression_in(head) or "plain text"
    if named != found:
        raise ValueError(f"{path}: named as {named} but its first bytes are {found}; rename it")


@contextmanager
def open_text(path: TextFile) -> Iterator[BinaryIO]:
    """Open a file of text, decompressing by its name's extension, and yield a buffered stream of its text's bytes.

    A pipe (`<(zcat a.gz)`, `/dev/stdin`) is read as the plain text that it brings.

    Raises:
        ValueError: missing, a folder, empty, or not what its name says; and while the stream is read: a truncated or damaged
            archive, or one with bytes that belong to nothing.
    """
    with archive_errors(path):
        if not isinstance(path, Path):
            with path.open() as stream:
                yield stream
            return
        check_exists(path)
        with open(path, "rb", buffering=0) as file:
            head = _head_of(file)
            check_head(head, path)
            whole = file
            if file.seekable():
                file.seek(0)
            else:
                whole = cast(io.FileIO, _Chained(head, file))
            with io.BufferedReader(decompressed(whole, path), BUFFER_BYTES) as stream:
                yield stream


def _head_of(file: io.FileIO) -> bytes:
    """The first bytes; a pipe may bring them one by one."""
    head = b""
    while len(head) < HEAD_BYTES and (more := file.read(HEAD_BYTES - len(head))):
        head += more
    return head


def decompressed(file: BinaryIO | io.FileIO, path: TextFile) -> io.RawIOBase:
    """The text of an open file, by its name's extension."""
    suffix = compression_of(path.name)
    return ArchiveText(file, suffix) if suffix else cast(io.RawIOBase, file)


def split_lines(text: bytes) -> list[bytes]:
    """Lines of a piece of text, without their newline; an unfinished last line counts, an empty one does not."""
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return lines


def decode_line(raw: bytes) -> str:
    """One line as text.

    Raises:
        BadRecordError: "invalid_utf8" or "nul", or the reason that a reader of records left in its place.
    """
    if b"\x00" in raw:
        note = NOTE.match(raw)
        if note:
            raise BadRecordError(note[2].decode())
        raise BadRecordError("nul")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadRecordError("invalid_utf8") from None


def bad_record(reason: str, raw: bytes) -> bytes:
    """The line (without newline) that stands for a bad record in a stream of lines; `decode_line` raises its reason."""
    return b"\x00!%b\x00%b" % (reason.encode(), raw.replace(b"\n", b" "))


def skipped_record(reason: str) -> bytes:
    """The line (without newline) that stands for a record in order but without text for us: counted, not bad."""
    return b"\x00-%b\x00" % reason.encode()


def is_skipped(raw: bytes) -> bool:
    """Whether a line stands for such a record."""
    note = NOTE.match(raw) if raw.startswith(b"\x00-") else None
    return note is not None


def raw_record(raw: bytes) -> bytes:
    """What the source held where a line stands: the line itself, or a bad record's raw bytes."""
    note = NOTE.match(raw)
    return raw[note.end() :] if note else raw


def is_blank(raw: bytes) -> bool:
    """Whether a line separates documents: empty, or nothing but ASCII white space."""
    return not raw or raw.isspace()


def parse_columns(text: str) -> tuple[str, ...]:
    """The columns of a TSV file from their comma-separated names.

    Raises:
        ValueError: an unknown name, or source, target or score not exactly (at most, for score) once.
    """
    columns = tuple(text.split(","))
    known = all(column in (SCORE, SOURCE, TARGET, IGNORED) for column in columns)
    if not known or columns.count(SOURCE) != 1 or columns.count(TARGET) != 1 or columns.count(SCORE) > 1:
        raise ValueError(
            f"--columns {text}: give source and target once each, score at most once and - for a column to ignore, "
            "as in score,source,target"
        )
    return columns


def parse_tsv(raw: bytes, columns: tuple[str, ...]) -> tuple[str, str, float | None]:
    """Source, target and score (None without such a column) of a TSV line.

    Raises:
        BadRecordError: "invalid_utf8", "nul", "columns" (another number of them) or "score" (not a number).
    """
    fields = decode_line(raw).split("\t")
    if len(fields) != len(columns):
        raise BadRecordError("columns")
    score = None
    if SCORE in columns:
        try:
            score = float(fields[columns.index(SCORE)])
        except ValueError:
            raise BadRecordError("score") from None
    return fields[columns.index(SOURCE)], fields[columns.index(TARGET)], score
