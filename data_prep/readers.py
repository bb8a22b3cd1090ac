"""Corpus files as lines, documents and pairs: plain, .xz, .gz or .zst, strict UTF-8, split on the newline byte only.

Knows text layouts; nothing of tokenizers, filters or shards. What is not a local file of lines (zip, TMX, JSONL, Parquet,
datasets, remote files) becomes a stream of lines in `inputs`.

A carriage return, U+0085 or U+2028 inside a line stays part of it, so that two files stay aligned (SentencePiece makes
spaces of the first and the last, and <unk> of U+0085). A byte order mark at the start of a file is no text:
`BYTE_ORDER_MARK` is skipped by the plan.
"""

import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BUFFER_BYTES = 1 << 20
MAGIC = {".xz": b"\xfd7zXZ\x00", ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
UNREAD_MAGIC = {"a zip archive": b"PK\x03\x04", "bzip2 data": b"BZh"}
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


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd frames one after the other and, unlike the library's own reader, notices a cut-off frame."""

    def __init__(self, file: BinaryIO | io.FileIO) -> None:
        self.file = file
        self.frame = zstandard.ZstdDecompressor().decompressobj()
        self.frame_begun = False
        self.compressed = b""
        self.text = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self.text:
            if not self.compressed:
                self.compressed = self.file.read(BUFFER_BYTES)
            if not self.compressed:
                if self.frame_begun:
                    raise EOFError("compressed file ended inside a frame")
                return 0
            self.text = memoryview(self.frame.decompress(self.compressed))
            self.frame_begun, self.compressed = True, b""
            if self.frame.eof:
                self.compressed = self.frame.unused_data
                self.frame, self.frame_begun = zstandard.ZstdDecompressor().decompressobj(), False
        size = min(len(buffer), len(self.text))
        buffer[:size] = self.text[:size]
        self.text = self.text[size:]
        return size


def check_file(path: Path) -> None:
    """Refuse a file that cannot be read as its name says.

    Raises:
        ValueError: missing, a folder, empty, or its first bytes do not fit its extension.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    with open(path, "rb") as file:
        head = file.read(8)
    check_head(head, path)


def check_head(head: bytes, path: TextFile) -> None:
    """Refuse a file whose first bytes are not what its name says; see `check_file`."""
    if not head:
        raise ValueError(f"{path}: empty file; give one with text or leave it out")
    for name, magic in UNREAD_MAGIC.items():
        if head.startswith(magic):
            raise ValueError(f"{path}: is {name}, which is not read as text; unpack it, or name it as what it is")
    suffix = Path(path.name).suffix
    named = suffix if suffix in MAGIC else "plain text"
    found = next((suffix for suffix, magic in MAGIC.items() if head.startswith(magic)), "plain text")
    if named != found:
        raise ValueError(f"{path}: named as {named} but its first bytes are {found}; rename it")


@contextmanager
def open_text(path: TextFile) -> Iterator[BinaryIO]:
    """Open a corpus file, decompressing by extension, and yield a buffered stream of its text's bytes.

    Raises:
        ValueError: see `check_file`; and while the stream is read: a truncated or damaged archive.
    """
    with archive_errors(path):
        if not isinstance(path, Path):
            with path.open() as stream:
                yield stream
            return
        check_file(path)
        with open(path, "rb", buffering=0) as file, io.BufferedReader(decompressed(file, path), BUFFER_BYTES) as stream:
            yield stream


@contextmanager
def archive_errors(path: TextFile) -> Iterator[None]:
    """Turn what the decompressors raise into a ValueError that names the file."""
    try:
        yield
    except EOFError:
        raise ValueError(f"{path}: truncated archive, its end is missing; fetch or write it again") from None
    except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise ValueError(f"{path}: damaged archive ({error}); fetch or write it again") from None


def decompressed(file: BinaryIO | io.FileIO, path: TextFile) -> io.RawIOBase:
    """The text of an open file, by its name's extension."""
    suffix = Path(path.name).suffix
    if suffix == ".xz":
        return cast(io.RawIOBase, lzma.open(file))
    if suffix == ".gz":
        return cast(io.RawIOBase, gzip.open(file))
    return _ZstdReader(file) if suffix == ".zst" else cast(io.RawIOBase, file)


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


def documents(lines: Iterable[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """CC-100 documents: runs of lines between blank ones, as (index of the line in `lines`, line)."""
    document: list[tuple[int, bytes]] = []
    for index, raw in enumerate(lines):
        if not is_blank(raw):
            document.append((index, raw))
        elif document:
            yield document
            document = []
    if document:
        yield document


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
