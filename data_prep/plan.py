"""Where shards begin and end: cuts a source at document or pair boundaries by its input bytes, and checks its lines.

The plan depends on the input and the settings only, never on the number of workers; it knows nothing of token ids. A
source is read to its end before anything is written, so a damaged or misaligned one leaves no shard behind.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.files import sha256_of_file, sha256_of_json
from data_prep.filters import PairFilters
from data_prep.readers import BUFFER_BYTES, BYTE_ORDER_MARK, BadRecordError, decode_line, is_blank, open_text, parse_tsv
from data_prep.token_file import Kind

DEFAULT_SHARD_BYTES = 64 << 20
MAX_SHARDS = 100_000  # five digits in a shard's name keep names in order
SHOWN_BYTES = 40
BATCH = 1024


@dataclass(frozen=True)
class Settings:
    """What, besides the input and the tokenizer, decides the bytes of a shard.

    Attributes:
        shard_bytes: a shard ends at the first boundary at or after so many bytes of decompressed text.
        columns: columns of a TSV file; empty for other layouts.
        filters: bounds for pairs; None for monolingual text.
    """

    shard_bytes: int = DEFAULT_SHARD_BYTES
    columns: tuple[str, ...] = ()
    filters: PairFilters | None = None

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise ValueError(f"--shard-bytes {self.shard_bytes}: must be at least 1; {DEFAULT_SHARD_BYTES} is usual")

    def record(self) -> dict[str, Any]:
        """The settings as they stand in markers."""
        return asdict(self) | {"columns": list(self.columns)}

    @property
    def sha256(self) -> str:
        """Hash of the settings' record."""
        return sha256_of_json(self.record())


@dataclass(frozen=True)
class Source:
    """A corpus given on the command line: one file of text or TSV, or the two files of a Moses pair."""

    kind: Kind
    languages: tuple[str, ...]
    paths: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The file name or names, for messages."""
        return " + ".join(path.name for path in self.paths)


@dataclass(frozen=True)
class SourceFile:
    """A source's file: name without folders (the same bytes wherever it lies), size and hash as given."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardRange:
    """One shard's part of the source.

    Attributes:
        first_line: number of its first line, from 1.
        lines: how many lines (of each file).
        starts: first byte in each file's decompressed text.
        ends: one past the last byte, likewise.
        continues_document: a document longer than two shards was cut, and this shard begins inside it.
    """

    first_line: int
    lines: int
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    continues_document: bool

    @property
    def bytes(self) -> int:
        """Decompressed text in it."""
        return sum(self.ends) - sum(self.starts)


@dataclass(frozen=True)
class SourcePlan:
    """A checked source and its shards."""

    source: Source
    settings: Settings
    files: tuple[SourceFile, ...]
    ranges: tuple[ShardRange, ...]

    @property
    def bytes(self) -> int:
        """Decompressed text of the whole source."""
        return sum(shard.bytes for shard in self.ranges)

    @property
    def source_stem(self) -> str:
        """Folder, name and source hash, common to every set of settings: `mono/de/de.txt.xz-1a2b3c4d`."""
        names_and_hashes = [[file.name, file.sha256] for file in self.files]
        identity = sha256_of_json([self.source.kind, list(self.source.languages), names_and_hashes])
        name = re.sub(r"[^A-Za-z0-9._]+", "_", self.files[0].name).lstrip(".") or "text"
        return f"{self.source.kind}/{'-'.join(self.source.languages)}/{name[:80]}-{identity[:8]}"

    @property
    def settings_stem(self) -> str:
        """Common beginning of this plan's stems: other settings give other names, so nothing is overwritten."""
        return f"{self.source_stem}-{self.settings.sha256[:8]}"

    def stem(self, index: int) -> str:
        """Stem of shard `index`, relative to the data folder."""
        return f"{self.settings_stem}-{index:05d}"


@dataclass
class _Cutter:
    """Grows shards line by line. Cuts come before a line: at a boundary from `shard_bytes` on, else from twice that."""

    shard_bytes: int
    starts: tuple[int, ...]
    ranges: list[ShardRange] = field(default_factory=list)
    line: int = 0

    def __post_init__(self) -> None:
        self.ends = list(self.starts)
        self._begin(continues_document=False)

    def _begin(self, continues_document: bool) -> None:
        self.starts, self.first_line, self.size = tuple(self.ends), self.line + 1, 0
        self.continues_document = continues_document

    def cut(self, continues_document: bool = False) -> None:
        """End the current shard, if it has any line, and begin the next one."""
        lines = self.line + 1 - self.first_line
        if lines:
            ends = tuple(self.ends)
            self.ranges.append(ShardRange(self.first_line, lines, self.starts, ends, self.continues_document))
            self._begin(continues_document)

    def at_boundary(self) -> None:
        """A pair or a document begins with the next line."""
        if self.size >= self.shard_bytes:
            self.cut()

    def inside_document(self) -> None:
        """The next line belongs to the document of the line before."""
        if self.size >= 2 * self.shard_bytes:
            self.cut(continues_document=True)

    def add(self, lines: tuple[bytes, ...]) -> None:
        """Take the next line of each file."""
        self.line += 1
        for side, raw in enumerate(lines):
            self.ends[side] += len(raw)
            self.size += len(raw)


@dataclass
class _BadLines:
    """Counts unusable lines against the rate that the user allows."""

    max_rate: float
    count: int = 0
    first: str = ""

    def add(self, path: Path, line: int, raw: bytes, reason: str) -> None:
        self.count += 1
        self.first = self.first or f"{path}:{line}: {reason} in {raw[:SHOWN_BYTES]!r}"
        if self.max_rate == 0:
            raise ValueError(f"{self.first}; mend the line, or set bad lines aside with --max-bad-rate 0.001")

    def finish(self, lines: int) -> None:
        if self.count > self.max_rate * lines:
            raise ValueError(
                f"{self.first}, the first of {self.count} bad lines in {lines}, above --max-bad-rate {self.max_rate}; "
                "mend the file or allow more"
            )


def make_plan(source: Source, settings: Settings, max_bad_rate: float) -> SourcePlan:
    """Read a source once: hash its files, check every line, and cut it into shards.

    Raises:
        ValueError: a file that cannot be read (see `readers`), no text, unequal line counts, or too many bad lines.
    """
    with ExitStack() as stack:
        streams = [stack.enter_context(open_text(path)) for path in source.paths]
        starts, texts = zip(*map(_after_mark, streams), strict=True)
        cutter = _Cutter(settings.shard_bytes, starts)
        bad = _BadLines(max_bad_rate)
        after_blank, has_text = True, False
        records = zip_longest(*texts)
        while batch := list(islice(records, BATCH)):
            if None in batch[-1]:
                raise ValueError(_unequal(source, cutter.line, batch, texts))
            _check_batch(source, settings.columns, batch, cutter.line + 1, bad)
            for lines in batch:
                blank = is_blank(lines[0])
                if source.kind == "pair" or (after_blank and not blank):
                    cutter.at_boundary()
                elif not blank:
                    cutter.inside_document()
                cutter.add(lines)
                after_blank, has_text = blank, has_text or not blank
        cutter.cut()
    if not has_text:
        raise ValueError(f"{source.paths[0]}: holds no text; give another file or leave it out")
    bad.finish(cutter.line)
    if len(cutter.ranges) > MAX_SHARDS:
        raise ValueError(
            f"--shard-bytes {settings.shard_bytes}: gives {len(cutter.ranges)} shards; at most {MAX_SHARDS}"
        )
    files = tuple(SourceFile(path.name, path.stat().st_size, sha256_of_file(path)) for path in source.paths)
    return SourcePlan(source, settings, files, tuple(cutter.ranges))


def _check_batch(
    source: Source, columns: tuple[str, ...], batch: list[tuple[bytes, ...]], first_line: int, bad: _BadLines
) -> None:
    """Count the unusable lines among records that begin at `first_line`."""
    if not columns and _is_clean(b"\n".join(chain.from_iterable(batch))):
        return
    for line, lines in enumerate(batch, start=first_line):
        for path, raw in zip(source.paths, lines, strict=True):
            try:
                _ = parse_tsv(raw, columns) if columns else decode_line(raw)
            except BadRecordError as reason:
                bad.add(path, line, raw, str(reason))


def _is_clean(text: bytes) -> bool:
    """Whether every line of it is usable: newlines never lie inside a character, so all can be decoded at once."""
    try:
        decode_line(text)
    except BadRecordError:
        return False
    return True


def _after_mark(stream: BinaryIO) -> tuple[int, Iterator[bytes]]:
    """Where text begins, after a byte order mark if there is one, and the lines from there."""
    first = stream.readline()
    start = len(BYTE_ORDER_MARK) if first.startswith(BYTE_ORDER_MARK) else 0
    return start, chain([first[start:]] if first[start:] else [], stream)


def _unequal(
    source: Source, before: int, batch: list[tuple[bytes | None, ...]], texts: tuple[Iterator[bytes], ...]
) -> str:
    """The message for files of unequal length, found in a batch that begins after `before` lines of each."""
    counts = [
        before + sum(lines[side] is not None for lines in batch) + sum(1 for _ in text)
        for side, text in enumerate(texts)
    ]
    told = ", ".join(f"{path} has {count} lines" for path, count in zip(source.paths, counts, strict=True))
    return f"{told}; both files of a pair need one line per pair: fetch them again or mend the shorter one"


def read_ranges(plan: SourcePlan, wanted: set[int]) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """The text of the wanted shards, in order: shard index and one piece of text per file.

    One decompressor reads the source from first to last; plain files are skipped through.

    Raises:
        ValueError: the source has changed since it was planned.
    """
    with ExitStack() as stack:
        streams = [stack.enter_context(open_text(path)) for path in plan.source.paths]
        positions = [0] * len(streams)
        for index in sorted(wanted):
            shard = plan.ranges[index]
            pieces = []
            for side, stream in enumerate(streams):
                _skip(stream, shard.starts[side] - positions[side])
                size = shard.ends[side] - shard.starts[side]
                pieces.append(stream.read(size))
                positions[side] = shard.ends[side]
                if len(pieces[-1]) != size:
                    raise ValueError(f"{plan.source.paths[side]}: changed while it was read; run the command again")
            yield index, tuple(pieces)


def _skip(stream: BinaryIO, count: int) -> None:
    if stream.seekable():
        stream.seek(count, os.SEEK_CUR)
        return
    while count and (block := stream.read(min(count, BUFFER_BYTES))):
        count -= len(block)
