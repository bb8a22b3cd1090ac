"""Sentence pairs as a stream: line by line from two files, or from one whose lines hold both sides.

Knows lines and words; nothing of what is done with them. Never holds more than a line of each file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from pipeline.texts.lines import STDIN, TABLE, Lines, check_is_text, comes_by_and_by, decoded, kind_of, name_of
from pipeline.texts.structured import (
    BOTH_SIDES,
    CONLLU,
    STRUCTURED,
    TMX,
    ConlluSentences,
    Side,
    TmxUnits,
    record_sides,
    unit_text,
)
from pipeline.texts.word_splitting import split_raw, split_words

WordPair = tuple[Sequence[str], Sequence[str]]
"""Source and target words."""
SEPARATOR = "|||"
RATE_LINES = 1000
"""Lines after which, and after as many more each time, the rate of bad ones is looked at."""


@dataclass
class BadLines:
    """Lines that could not be used: how many, and what was wrong with the first."""

    count: int = 0
    first: str = ""


@dataclass
class PairReader:
    """Reads pairs of words from `source` and `target`; `target` None: `source` holds both sides in each line.

    Such lines are `source ||| target`, or where the file is named .tsv `source`, a tab, `target`; a .jsonl has an object a
    line, and a .tmx a unit a pair. Words are what `split_words` says, or with `raw` what `split_raw` says; those of a .conllu,
    or of a list in JSON, are as they are given. A line without words is an empty side.
    Where one file ends before the other, the pairs until then come first and then a ValueError, so that whoever writes a
    line a pair has written one for every pair there was.

    max_bad_rate: share of lines that may be bad (not UTF-8, not two sides): each is a pair without words and counted in
        `bad`. With 0 the first is an error. Looked at every 1,000 lines and at the end.
    fields: of JSON the names of source and target, of TMX their languages.
    """

    source: Path
    target: Path | None = None
    raw: bool = False
    max_bad_rate: float = 0.0
    fields: tuple[str, str] | None = None
    bad: BadLines = field(default_factory=BadLines, init=False)

    def __post_init__(self) -> None:
        if self.source == self.target == STDIN:
            raise ValueError("- -: stdin cannot be both sides; give one -, with lines `source ||| target`")
        if not 0 <= self.max_bad_rate < 1:
            raise ValueError(f"--max-bad-rate {self.max_bad_rate}: give a share of lines, from 0 to less than 1")
        self._check_kinds()
        self._kind = kind_of(self.source)
        self._source = self._lines_of(self.source)
        self._target = None if self.target is None else self._lines_of(self.target)

    def _check_kinds(self) -> None:
        paths = [path for path in (self.source, self.target) if path is not None]
        for path in paths:
            check_is_text(path, STRUCTURED)
            kind = kind_of(path)
            if kind == TABLE and self.target is not None:
                raise ValueError(
                    f"{path}: is a table by its name; give it alone, with source and target in two columns"
                )
            if kind in BOTH_SIDES and self.target is not None:
                raise ValueError(f"{path}: holds both sides by its name; give it alone")
            if kind == CONLLU and self.target is None:
                raise ValueError(f"{path}: is one side by its name; give the file of its translations after it")
            if kind == CONLLU and self.raw:
                raise ValueError(f"{path}: is split into words already; --raw is for text that is not")
        kind = kind_of(self.source)
        if kind == TMX and self.fields is None:
            raise ValueError(
                f"{self.source}: name the languages of source and target with --fields, as in --fields en,de"
            )
        if kind not in BOTH_SIDES and self.fields is not None:
            raise ValueError(f"--fields: {name_of(self.source)} has none; give it with a .jsonl or .tmx file")

    def _lines_of(self, path: Path) -> Lines:
        kind = kind_of(path)
        if kind == TMX:
            assert self.fields is not None, "was checked"
            return TmxUnits(path, self.fields)
        return ConlluSentences(path) if kind == CONLLU else Lines(path)

    @property
    def is_split(self) -> bool:
        """Whether words come as somebody has split them, and not by white space."""
        return any(isinstance(side, ConlluSentences) for side in (self._source, self._target))

    @property
    def bytes_read(self) -> int:
        """Of `source`, for showing how far it is."""
        return self._source.bytes_read

    @property
    def size(self) -> int | None:
        """Bytes of `source`; None where nobody knows."""
        return self._source.size

    @property
    def comes_by_and_by(self) -> bool:
        """Whether a pair may have to be waited for: one from a pipe or a terminal."""
        return any(comes_by_and_by(path) for path in (self.source, self.target) if path is not None)

    def __iter__(self) -> Iterator[WordPair]:
        with ExitStack() as files:
            number = 0
            for number, lines in enumerate(self._lines(files), start=1):
                try:
                    pair = self._pair(lines, number)
                except ValueError as error:
                    pair = self._set_aside(error)
                yield pair
                if number % RATE_LINES == 0:
                    self._check_rate(number)
            self._check_rate(number)

    def _lines(self, files: ExitStack) -> Iterator[tuple[bytes, ...]]:
        """The line, or the two lines, of every pair."""
        source = self._source.open(files)
        if self._target is None:
            yield from zip(source)
            return
        target = self._target.open(files)
        for before, (source_line, target_line) in enumerate(zip_longest(source, target)):
            if source_line is None or target_line is None:
                shorter, longer = (self.source, self.target) if source_line is None else (self.target, self.source)
                assert shorter is not None and longer is not None
                more = before + 1 + sum(1 for _ in (target if source_line is None else source))
                raise ValueError(
                    f"{name_of(shorter)} has {before:,} lines, {name_of(longer)} has {more:,}; the first {before:,} pairs "
                    "were read; give translations line by line"
                )
            yield source_line, target_line

    def _pair(self, lines: tuple[bytes, ...], number: int) -> WordPair:
        if self._target is not None:
            source, target = (
                self._side(line, side, number) for line, side in zip(lines, (self._source, self._target), strict=True)
            )
            return self._split(source), self._split(target)
        if self._kind in BOTH_SIDES:
            sides = (
                unit_text(lines[0], self.source, number)
                if self._kind == TMX
                else record_sides(lines[0], self.source, number, self.fields)
            )
            return self._split(sides[0]), self._split(sides[1])
        both = decoded(lines[0], self.source, number)
        if not both.strip():
            return [], []
        return self._columns(both, number) if self._kind == TABLE else self._separated(both, number)

    def _side(self, line: bytes, side: Lines, number: int) -> Side:
        if isinstance(side, ConlluSentences):
            return line.decode().split("\t") if line else []
        return decoded(line, side.path, number)

    def _split(self, side: Side) -> list[str]:
        if isinstance(side, list):
            return side
        return split_raw(side) if self.raw else split_words(side)

    def _separated(self, line: str, number: int) -> WordPair:
        words = split_words(line)
        count = words.count(SEPARATOR)
        if count == 1:
            at = words.index(SEPARATOR)
            return self._split(" ".join(words[:at])), self._split(" ".join(words[at + 1 :]))
        place = f"{name_of(self.source)}:{number}"
        if count:
            raise ValueError(f"{place}: {count} {SEPARATOR!r} between spaces; write `source ||| target`")
        if line.count("\t") == 1:
            raise ValueError(f"{place}: a tab stands where {SEPARATOR!r} is looked for; name the file .tsv")
        raise ValueError(
            f"{place}: no {SEPARATOR!r} between spaces; give the file of its translations after it, or lines "
            "`source ||| target`"
        )

    def _columns(self, line: str, number: int) -> WordPair:
        columns = line.split("\t")
        if len(columns) != 2:
            raise ValueError(
                f"{name_of(self.source)}:{number}: {len(columns)} columns; give a table with two, source and target, as "
                f"`cut -f 1,2` makes"
            )
        return self._split(columns[0]), self._split(columns[1])

    def _set_aside(self, error: ValueError) -> WordPair:
        if not self.max_bad_rate:
            raise error
        self.bad.count += 1
        self.bad.first = self.bad.first or str(error)
        return [], []

    def _check_rate(self, lines: int) -> None:
        if self.bad.count > self.max_bad_rate * lines:
            raise ValueError(
                f"{self.bad.count:,} of {lines:,} lines cannot be used, more than --max-bad-rate {self.max_bad_rate:g}; "
                f"the first: {self.bad.first}"
            )
