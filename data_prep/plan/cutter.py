"""Where shards end: grows shards by blocks of whole lines and cuts them at document or pair boundaries; counts bad lines.

Knows positions in text only: nothing of files' layouts beyond blank lines, nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from data_prep.text.blocks import blank_lines, count_lines, is_clean, line_ends, line_starts, unusable
from data_prep.text.content import advice_on_encoding
from data_prep.text.readers import TextFile, is_blank, is_skipped, raw_record, split_lines

SHOWN_BYTES = 40
SET_ASIDE = "set bad lines aside with --max-bad-rate 0.001"


@dataclass(frozen=True)
class ShardRange:
    """One shard's part of the source."""

    first_line: int
    """Number of its first line, from 1."""
    lines: int
    """How many lines (of each file)."""
    starts: tuple[int, ...]
    """First byte in each file's decompressed text."""
    ends: tuple[int, ...]
    """One past the last byte, likewise."""
    continues_document: bool
    """A document longer than two shards was cut, and this shard begins inside it."""

    @property
    def bytes(self) -> int:
        """Decompressed text in it."""
        return sum(self.ends) - sum(self.starts)


@dataclass
class Cutter:
    """Grows shards block by block. Cuts come before a line: at a boundary from `shard_bytes` on, else from twice that.

    A boundary is the beginning of a document, or with `every_line` that of any line.
    """

    shard_bytes: int
    starts: tuple[int, ...]
    """Where the text of the shard that is growing begins in each file."""
    every_line: bool
    ranges: list[ShardRange] = field(default_factory=list)
    """The shards that have ended."""
    lines: int = 0
    """Lines taken so far, of each file."""
    has_text: bool = False
    """A line of the first file was not blank."""

    def __post_init__(self) -> None:
        self._ends = self.starts
        self._first_line = 1
        self._continues_document = False
        self._after_blank = True

    @property
    def size(self) -> int:
        """Bytes in the shard that is growing."""
        return sum(self._ends) - sum(self.starts)

    def add(self, texts: tuple[bytes, ...]) -> None:
        """Take the next lines of each file, the same number of each."""
        self.has_text = self.has_text or not texts[0].isspace()
        if len(texts) == 1 and self.size + len(texts[0]) < self.shard_bytes:
            self._pass_over(texts[0])
        else:
            self._scan(texts)
        self._ends = tuple(end + len(text) for end, text in zip(self._ends, texts, strict=True))

    def finish(self) -> None:
        """End the last shard, if it has any line."""
        if self.size:
            self._cut(self.lines, self._ends, continues_document=False)

    def _pass_over(self, text: bytes) -> None:
        """Take a block in which no shard can end, without a look at each of its lines."""
        self.lines += count_lines(text)
        self._after_blank = is_blank(text[text.rfind(b"\n", 0, len(text) - 1) + 1 :])

    def _scan(self, texts: tuple[bytes, ...]) -> None:
        ends = [line_ends(text) for text in texts]
        starts = [line_starts(end) for end in ends]
        boundary_C, inside_C = self._places_to_cut(texts[0], ends[0])
        position_L = np.sum(starts, axis=0)
        boundary_at, inside_at = position_L[boundary_C], position_L[inside_C]
        shard_start = -self.size
        while True:
            places = [
                *boundary_C[np.searchsorted(boundary_at, shard_start + self.shard_bytes) :][:1].tolist(),
                *inside_C[np.searchsorted(inside_at, shard_start + 2 * self.shard_bytes) :][:1].tolist(),
            ]
            if not places:
                break
            line = min(places)
            shard_start = int(position_L[line])
            at = tuple(end + int(start[line]) for end, start in zip(self._ends, starts, strict=True))
            self._cut(self.lines + line, at, continues_document=line in inside_C)
        self.lines += len(ends[0])

    def _places_to_cut(self, text: bytes, ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Lines that begin at a boundary, and lines that go on with a document: int64 indices, ascending."""
        if self.every_line:
            return np.arange(len(ends)), np.empty(0, dtype=np.int64)
        blank = blank_lines(text, ends)
        after_blank = np.concatenate([[self._after_blank], blank[:-1]])
        self._after_blank = bool(blank[-1])
        return np.flatnonzero(~blank & after_blank), np.flatnonzero(~blank & ~after_blank)

    def _cut(self, lines: int, at: tuple[int, ...], continues_document: bool) -> None:
        """End the current shard after so many lines of the source, at these positions, and begin the next one."""
        count = lines + 1 - self._first_line
        self.ranges.append(ShardRange(self._first_line, count, self.starts, at, self._continues_document))
        self._first_line, self.starts, self._continues_document = lines + 1, at, continues_document


@dataclass
class BadLineCounter:
    """Counts unusable lines against the rate that the user allows; lines of skipped records are no bad ones."""

    max_rate: float
    count: int = 0
    skipped: int = 0
    first: str = ""
    advice: str = ""

    def check(
        self, paths: tuple[TextFile, ...], columns: tuple[str, ...], texts: tuple[bytes, ...], first_line: int
    ) -> None:
        """Count the unusable lines among the next lines of each file, which begin at `first_line`.

        Raises:
            ValueError: there is one, and none is allowed.
        """
        if not columns and all(map(is_clean, texts)):
            return
        for line, lines in enumerate(zip(*map(split_lines, texts), strict=True), start=first_line):
            for path, raw, text in zip(paths, lines, texts, strict=True):
                if is_skipped(raw):
                    self.skipped += 1
                elif reason := unusable(raw, columns):
                    self._add(path, line, raw, partial(_cause, reason, raw, text, columns))

    def _add(self, path: TextFile, line: int, raw: bytes, cause: Callable[[], tuple[str, str]]) -> None:
        self.count += 1
        if not self.first:
            reason, self.advice = cause()
            self.first = f"{path}:{line}: {reason} in {raw_record(raw)[:SHOWN_BYTES]!r}"
        if self.max_rate == 0:
            raise ValueError(f"{self.first}; {self.advice}")

    def finish(self, lines: int) -> None:
        """Judge the whole source.

        Raises:
            ValueError: more bad lines than allowed.
        """
        if self.count > self.max_rate * lines:
            raise ValueError(
                f"{self.first}, the first of {self.count} bad lines in {lines}, above --max-bad-rate {self.max_rate}; "
                f"{self.advice.replace(SET_ASIDE, 'allow more')}"
            )


def _cause(reason: str, raw: bytes, text: bytes, columns: tuple[str, ...]) -> tuple[str, str]:
    """The reason for which a line of a text is bad in more words, and what to do about it."""
    if reason == "columns" and raw_record(raw) == raw:
        found = raw.count(b"\t") + 1
        order = "source,target" if found == 2 else ",".join(["source", "target", *"-" * (found - 2)])
        told = f"columns ({found} where --columns {','.join(columns)} has {len(columns)})"
        return told, f"name the columns in their order, as in --columns {order}; or {SET_ASIDE}"
    encoding = advice_on_encoding(text) if reason in ("invalid_utf8", "nul", "json") else None
    return reason, f"{encoding or 'correct the line'}, or {SET_ASIDE}"
