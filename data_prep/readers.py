"""Corpus files as lines, documents and pairs: plain, .xz, .gz or .zst, strict UTF-8, split on the newline byte only.

Knows text layouts; nothing of tokenizers, filters or shards.

A carriage return, U+0085 or U+2028 inside a line stays part of it (SentencePiece normalises them to spaces), so that
two files stay aligned. A byte order mark at the start of a file is no text: `BYTE_ORDER_MARK` is skipped by the plan.
"""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BUFFER_BYTES = 1 << 20
MAGIC = {".xz": b"\xfd7zXZ\x00", ".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
UNREAD_MAGIC = {"a zip archive": b"PK\x03\x04", "bzip2 data": b"BZh"}
SCORE, SOURCE, TARGET, IGNORED = "score", "source", "target", "-"


class BadRecordError(ValueError):
    """A line that is not usable text; its message is the reason under which it is counted."""


class _ZstdReader(io.RawIOBase):
    """Decompresses zstd frames one after the other and, unlike the library's own reader, notices a cut-off frame."""

    def __init__(self, file: io.FileIO) -> None:
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
    if not head:
        raise ValueError(f"{path}: empty file; give one with text or leave it out")
    for name, magic in UNREAD_MAGIC.items():
        if head.startswith(magic):
            raise ValueError(f"{path}: is {name}, which is not read; unpack it first")
    named = path.suffix if path.suffix in MAGIC else "plain text"
    found = next((suffix for suffix, magic in MAGIC.items() if head.startswith(magic)), "plain text")
    if named != found:
        raise ValueError(f"{path}: named as {named} but its first bytes are {found}; rename it")


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a corpus file, decompressing by extension, and yield a buffered stream of its text's bytes.

    Raises:
        ValueError: see `check_file`; and while the stream is read: a truncated or damaged archive.
    """
    check_file(path)
    with open(path, "rb", buffering=0) as file, io.BufferedReader(_decompressed(file, path), BUFFER_BYTES) as stream:
        try:
            yield stream
        except EOFError:
            raise ValueError(f"{path}: truncated archive, its end is missing; fetch or write it again") from None
        except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            raise ValueError(f"{path}: damaged archive ({error}); fetch or write it again") from None


def _decompressed(file: io.FileIO, path: Path) -> io.RawIOBase:
    if path.suffix == ".xz":
        return cast(io.RawIOBase, lzma.open(file))
    if path.suffix == ".gz":
        return cast(io.RawIOBase, gzip.open(file))
    return _ZstdReader(file) if path.suffix == ".zst" else file


def split_lines(text: bytes) -> list[bytes]:
    """Lines of a piece of text, without their newline; an unfinished last line counts, an empty one does not."""
    lines = text.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return lines


def decode_line(raw: bytes) -> str:
    """One line as text.

    Raises:
        BadRecordError: "invalid_utf8" or "nul".
    """
    if b"\x00" in raw:
        raise BadRecordError("nul")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadRecordError("invalid_utf8") from None


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
