"""Lines of text from whatever holds them: a file, plain or compressed, a pipe, or standard input.

Knows bytes and their encodings; nothing of pairs or words. What is not UTF-8 text is told with what to do about it.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from data_prep.text.readers import BYTE_ORDER_MARK, open_text

STDIN = Path("-")
COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
TABLE = ".tsv"
_OTHER_KINDS = {
    ".csv": "a CSV table",
    ".xlsx": "a spreadsheet",
    ".xls": "a spreadsheet",
    ".ods": "a spreadsheet",
    ".json": "JSON",
    ".jsonl": "JSON lines",
    ".parquet": "a Parquet file",
    ".tmx": "a translation memory (TMX)",
    ".xml": "XML",
    ".html": "a web page",
    ".sgm": "SGML",
    ".doc": "a document of a word processor",
    ".docx": "a document of a word processor",
    ".odt": "a document of a word processor",
    ".pdf": "a PDF document",
    ".zip": "an archive of files",
    ".tar": "an archive of files",
}
_UTF_16 = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def name_of(path: Path) -> str:
    """What a message calls it."""
    return "stdin" if path == STDIN else str(path)


def kind_of(path: Path) -> str:
    """The suffix that tells what is in a file: `.tsv` of a.tsv and a.tsv.gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def check_is_text(path: Path, also: Sequence[str] = ()) -> None:
    """Refuse, before anything is loaded, what is not there or not a text file by its name; ValueError says what to do.

    also: suffixes of what is no plain text and read none the less.
    """
    if path == STDIN:
        return
    try:
        is_folder = path.is_dir()
        exists = path.exists()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give a text file, or - for stdin") from None
    if is_folder:
        raise ValueError(f"{path}: is a folder; give a text file, or - for stdin")
    if not exists:
        raise ValueError(f"{path}: cannot be read (No such file or directory); give a text file, or - for stdin")
    kind = kind_of(path)
    if kind in _OTHER_KINDS and kind not in also:
        raise ValueError(
            f"{path}: is {_OTHER_KINDS[kind]} by its name, and text is needed; write its sentences to two text files, line by "
            "line, or to one with a tab between source and target, NAME.tsv"
        )


def comes_by_and_by(path: Path) -> bool:
    """Whether lines may have to be waited for: those of a pipe or a terminal, unlike those of a file."""
    return not path.is_file()


class Lines:
    """The lines of a text file, without their ends; an iterator can be asked for once.

    Lines end at `\\n` or `\\r\\n` alone. A byte order mark at the beginning is no text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_read = 0
        """Of the text, for showing how far it is."""
        self.size = path.stat().st_size if path.is_file() and path.suffix.lower() not in COMPRESSED else None
        """Bytes of text in all; None where nobody knows."""

    def open(self, files: ExitStack) -> Iterator[bytes]:
        """Its lines as bytes, closed with `files`.

        Raises:
            ValueError: it cannot be opened, or while lines are read: a damaged archive.
        """
        for line in self.stream(files):
            text = line.removeprefix(BYTE_ORDER_MARK) if self.bytes_read == 0 else line
            self.bytes_read += len(line)
            yield text.removesuffix(b"\n").removesuffix(b"\r")

    def stream(self, files: ExitStack) -> BinaryIO:
        """Its text as bytes, closed with `files`; ValueError where it cannot be opened."""
        try:
            return self._opened(files)
        except OSError as error:
            raise ValueError(
                f"{self.path}: cannot be read ({error.strerror}); give a text file, or - for stdin"
            ) from None

    def _opened(self, files: ExitStack) -> BinaryIO:
        if self.path == STDIN:
            return _standard_input(files)
        if self.path.is_file() and self.path.stat().st_size:
            return files.enter_context(open_text(self.path))
        return files.enter_context(self.path.open("rb"))


def _standard_input(files: ExitStack) -> BinaryIO:
    """Its bytes; not through `sys.stdin`, whose lock a thread that waits for input would hold to the process's end."""
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):
        return sys.stdin.buffer
    return files.enter_context(open(descriptor, "rb", closefd=False))


def decoded(line: bytes, path: Path, number: int) -> str:
    """A line as text.

    Raises:
        ValueError: it is not UTF-8; the message says what it seems to be, and the command that converts it.
    """
    if line.count(0) * 4 > len(line) or line[:2] in _UTF_16:
        raise ValueError(f"{name_of(path)}:{number}: is not UTF-8 but UTF-16; {_convert('UTF-16', path)}")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        place = f"{name_of(path)}:{number}: byte 0x{line[error.start]:02x} at {error.start} is not UTF-8"
        if not line.decode(errors="ignore").isascii():  # other letters of the line are
            raise ValueError(f"{place}; the line is damaged, correct it or take it out") from None
        windows = any(0x80 <= byte < 0xA0 for byte in line)
        guess = "WINDOWS-1252" if windows else "LATIN1"
        named = "Windows-1252" if windows else "Latin-1"
        raise ValueError(f"{place}; if this file is {named}, {_convert(guess, path)}") from None


def _convert(encoding: str, path: Path) -> str:
    source = "FILE" if path == STDIN else str(path)
    converted = "CONVERTED" if path == STDIN else f"{path.stem}.utf8{path.suffix}"
    return f"convert it: iconv -f {encoding} -t UTF-8 {source} > {converted}"


def read_lines(path: Path, what: str) -> list[str]:
    """All lines of a text file.

    Raises:
        ValueError: there is no such file (`what` it should be is said), or it is not UTF-8; names the line.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give {what}")
    if not path.exists():
        raise ValueError(f"{path}: no such file; give {what}")
    with ExitStack() as files:
        return [decoded(line, path, number) for number, line in enumerate(Lines(path).open(files), start=1)]
