"""Sentences from files that are more than lines of text: CoNLL-U, JSON lines, translation memories (TMX).

Knows these formats; nothing of what is done with the sentences. Nothing is held but the record that is read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson

from data_prep.text.readers import NOTE
from data_prep.text.records import field_value
from data_prep.text.tmx import tmx_lines
from pipeline.texts.lines import Lines, decoded

CONLLU, JSONL, TMX = ".conllu", ".jsonl", ".tmx"
STRUCTURED = (CONLLU, JSONL, TMX)
BOTH_SIDES = (JSONL, TMX)
"""Files of pairs."""
USUAL_FIELDS = (("source", "target"), ("src", "tgt"))
"""Names of the two sides in records whose fields nobody has named."""

Side = str | list[str]
"""Text, or words as they are given."""
_CONLLU_COLUMNS = 10
_BAD = b"\x00!"


class ConlluSentences(Lines):
    """The sentences of a CoNLL-U file as lines of words, apart by tabs: syntactic words, as in a treebank's tags.

    A blank line ends a sentence, so that of two of them the second is a sentence without words; not at the file's end.
    """

    def open(self, files: ExitStack) -> Iterator[bytes]:
        """A line a sentence. Raises as `Lines.open`, and ValueError where a line has not the ten columns."""
        words: list[str] = []
        blank = 0  # sentences without words, should others come after them
        for number, line in enumerate(super().open(files), start=1):
            if not line.strip():
                if words:
                    yield _joined(words)
                    words = []
                else:
                    blank += 1
            elif not line.startswith(b"#"):
                yield from [b""] * blank
                blank = 0
                words += self._words(line, number)
        if words:
            yield _joined(words)

    def _words(self, line: bytes, number: int) -> list[str]:
        columns = decoded(line, self.path, number).split("\t")
        if len(columns) != _CONLLU_COLUMNS or not columns[1]:
            raise ValueError(
                f"{self.path}:{number}: has not the {_CONLLU_COLUMNS} columns of CoNLL-U, tabs apart, with a word in the second"
            )
        return (
            [columns[1]] if columns[0].isdecimal() else []
        )  # not the range 1-2 of a contraction, nor an empty node 1.1


def _joined(words: list[str]) -> bytes:
    return "\t".join(words).encode()


class TmxUnits(Lines):
    """The units of a translation memory as lines `source<TAB>target`; one without both languages is an empty line."""

    def __init__(self, path: Path, languages: tuple[str, str]) -> None:
        super().__init__(path)
        self._languages = languages

    def open(self, files: ExitStack) -> Iterator[bytes]:
        """A line a unit; `unit_text` reads it. Raises as `Lines.open` and `tmx_lines`."""
        counted = io.BufferedReader(_Counted(self, files))
        for line in tmx_lines(counted, str(self.path), self._languages):
            yield line.removesuffix(b"\n")


class _Counted(io.RawIOBase):
    """A file's text, of which it is counted how much was read."""

    def __init__(self, text: Lines, files: ExitStack) -> None:
        self._text, self._stream = text, text.stream(files)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._stream.read(len(buffer))
        self._text.bytes_read += len(block)
        buffer[: len(block)] = block
        return len(block)


def unit_text(line: bytes, path: Path, number: int) -> tuple[str, str]:
    """Source and target of a line of `TmxUnits`; ValueError where the unit cannot be used."""
    note = NOTE.match(line)
    if note is not None and line.startswith(_BAD):
        raise ValueError(f"{path}: unit {number} is {note[2].decode().replace('_', ' ')}; correct it or take it out")
    if note is not None or not line:
        return "", ""
    try:
        source, target = line.decode().split("\t")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: unit {number} is not UTF-8; correct it or take it out") from None
    return source, target


def record_sides(line: bytes, path: Path, number: int, fields: tuple[str, str] | None) -> tuple[Side, Side]:
    """Source and target of a line of JSON: text, or words as a list of texts.

    fields: the names of the two sides, dots lead into nested records; None: `USUAL_FIELDS`.

    Raises:
        ValueError: it is no JSON object, or has no such fields with text in them.
    """
    if not line.strip():
        return "", ""
    place = f"{path}:{number}"
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{place}: is no JSON ({error}); give an object a line") from None
    for names in USUAL_FIELDS if fields is None else (fields,):
        source, target = (field_value(record, name) for name in names)
        if _is_side(source) and _is_side(target):
            return source, target
    wanted = " or ".join(map(" and ".join, USUAL_FIELDS if fields is None else (fields,)))
    have = f"; it has {', '.join(record)}" if isinstance(record, dict) and record else ""
    raise ValueError(f"{place}: no text in {wanted}{have}; name the two fields with --fields SOURCE,TARGET")


def _is_side(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(_is_word, value)))


def _is_word(value: object) -> bool:
    """Whether it can stand in a line, between tabs."""
    return isinstance(value, str) and bool(value.strip()) and not any(end in value for end in "\t\n\r")
