"""Sentence pairs as a stream: line by line from two files, from one with `source ||| target` lines, or from stdin.

Knows bytes, lines and words; nothing of what is done with them. Never holds more than a line of each file.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO

WordPair = tuple[Sequence[str], Sequence[str]]
"""Source and target words."""
STDIN = Path("-")
SEPARATOR = "|||"
_INNER = "'’.,·-‐_"
"""Marks that stay inside a word when a letter or digit stands on both sides: don't, 3.14, e-mail."""
# Scripts that are written without spaces between words, by the first word of their characters' Unicode names.
_NO_SPACE = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO", "YI")


@dataclass
class PairReader:
    """Reads pairs of words from `source` and `target`; `target` None: `source` holds `source ||| target` lines.

    Words are what `split_words` says, or with `raw` what `split_raw` says. A line without words is an empty side.
    Where one file ends before the other, the pairs until then come first and then a ValueError, so that whoever writes a
    line a pair has written one for every pair there was.
    """

    source: Path
    target: Path | None = None
    raw: bool = False
    bytes_read: int = field(default=0, init=False)
    """Of `source`, for showing how far it is."""

    def __post_init__(self) -> None:
        if self.source == self.target == STDIN:
            raise ValueError("- -: stdin cannot be both sides; give one -, with lines `source ||| target`")

    def __iter__(self) -> Iterator[WordPair]:
        split = split_raw if self.raw else split_words
        with ExitStack() as files:
            source = self._lines(self.source, files)
            if self.target is None:
                for number, line in enumerate(source, start=1):
                    yield _both_sides(line, f"{_name(self.source)}:{number}", split)
                return
            target = self._lines(self.target, files)
            for number, (source_line, target_line) in enumerate(zip_longest(source, target)):
                if source_line is None or target_line is None:
                    shorter, longer = (self.source, self.target) if source_line is None else (self.target, self.source)
                    more = number + 1 + sum(1 for _ in (target if source_line is None else source))
                    raise ValueError(
                        f"{_name(shorter)} has {number:,} lines, {_name(longer)} has {more:,}; the first {number:,} pairs "
                        "were read; give translations line by line"
                    )
                yield split(source_line), split(target_line)

    def _lines(self, path: Path, files: ExitStack) -> Iterator[str]:
        try:
            file: BinaryIO = sys.stdin.buffer if path == STDIN else files.enter_context(path.open("rb"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}); give a text file, or - for stdin") from None
        for number, line in enumerate(file, start=1):
            if path == self.source:
                self.bytes_read += len(line)
            try:
                yield line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{_name(path)}:{number}: byte 0x{line[error.start]:02x} at {error.start} is not UTF-8; convert it"
                ) from None


def _both_sides(line: str, place: str, split: Callable[[str], list[str]]) -> WordPair:
    if not line.strip():
        return [], []
    words = split_words(line)
    if words.count(SEPARATOR) != 1:
        raise ValueError(f"{place}: {words.count(SEPARATOR)} {SEPARATOR!r} between spaces; write `source ||| target`")
    at = words.index(SEPARATOR)
    return split(" ".join(words[:at])), split(" ".join(words[at + 1 :]))


def _name(path: Path) -> str:
    return "stdin" if path == STDIN else str(path)


def split_words(text: str) -> list[str]:
    """The words of tokenised text: what ASCII white space sets apart, as in gold files; others may stand within a word."""
    return [word.decode() for word in text.encode().split()]


def split_raw(text: str) -> list[str]:
    """The words of untokenised text, by a rule that needs no language: no character but white space is lost.

    White space ends a word. A run of letters, digits and combining marks is a word; an apostrophe, full stop, comma,
    hyphen, middle dot or underscore stays in it between two letters or digits. In scripts without spaces (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese, Tibetan, Yi) each letter with its combining marks is a word. Every other
    character is a word by itself.
    """
    words: list[str] = []
    joins = False  # whether the next letter goes to the last word
    for at, character in enumerate(text):
        if character.isspace():
            joins = False
        elif _is_mark(character) and words and not text[at - 1].isspace():
            words[-1] += character
        elif _is_letter(character):
            alone = _stands_alone(character)
            if joins and not alone:
                words[-1] += character
            else:
                words.append(character)
            joins = not alone
        elif joins and character in _INNER and _continues(text, at + 1):
            words[-1] += character
        else:
            words.append(character)
            joins = False
    return words


def _is_mark(character: str) -> bool:
    """Combining marks, and the joiners that shape a word without being seen."""
    return unicodedata.category(character)[0] == "M" or character in "\u200c\u200d"


def _is_letter(character: str) -> bool:
    return character.isalnum()


def _continues(text: str, at: int) -> bool:
    return at < len(text) and _is_letter(text[at]) and not _stands_alone(text[at])


def _stands_alone(character: str) -> bool:
    if character < "\u0e00":  # Thai is the first of these scripts
        return False
    return unicodedata.name(character, "").split(" ")[0].split("-")[0] in _NO_SPACE
