"""Where shards begin and end: cuts a source at document or pair boundaries by its input bytes, and checks its lines.

The plan depends on the input and the settings only, never on the number of workers; it knows nothing of token ids. A
source is read to its end before anything is written, so a damaged or misaligned one leaves no shard behind.
"""

import re
from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import sentencepiece

from data_prep.files import sha256_of_json
from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.filters.duplicates import Duplicates
from data_prep.filters.line_hashes import LineHashes
from data_prep.plan.cutter import BadLines, Cutter, ShardRange
from data_prep.text.blocks import count_lines, in_step, without_mark
from data_prep.text.inputs import state_of
from data_prep.text.readers import TextFile, open_text, readable_name
from data_prep.text.records import Layout
from data_prep.text.source_files import SourceFile, SourceReading
from data_prep.text.spool import Spool, SpoolWriter, TextPiece, changed
from data_prep.token_files.block_table import DEFAULT_BLOCK_TOKENS, SPECIAL_TOKENS
from data_prep.token_files.marker import NAME_HASH, source_identity
from data_prep.token_files.token_file import SCHEMA, Kind

DEFAULT_SHARD_BYTES = 64 << 20
MAX_SHARDS = 100_000  # five digits in a shard's name keep names in order


@dataclass(frozen=True)
class Settings:
    """What, besides the input and the tokenizer, decides the bytes of a shard.

    Attributes:
        shard_bytes: a shard ends at the first boundary at or after so many bytes of decompressed text.
        columns: columns of a TSV file, or of the lines that records become; empty for other layouts.
        filters: bounds for pairs, cleaning for monolingual text; None keeps all of it.
        layout: how records become lines; None for files of lines.
        block_tokens: size of training's blocks, whose places are kept with monolingual text.
        sentencepiece: version of the encoder, as another one may give other ids.
    """

    shard_bytes: int = DEFAULT_SHARD_BYTES
    columns: tuple[str, ...] = ()
    filters: PairFilters | MonoFilters | None = None
    layout: Layout | None = None
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    sentencepiece: str = sentencepiece.__version__

    def __post_init__(self) -> None:
        if self.block_tokens <= SPECIAL_TOKENS:
            raise ValueError(f"--block-tokens {self.block_tokens}: must be at least 3; {DEFAULT_BLOCK_TOKENS} is usual")
        if self.shard_bytes < 1:
            raise ValueError(f"--shard-bytes {self.shard_bytes}: must be at least 1; {DEFAULT_SHARD_BYTES} is usual")

    def record(self) -> dict[str, Any]:
        """The settings as they stand in markers."""
        layout = self.layout and asdict(self.layout) | {"fields": list(self.layout.fields)}
        return asdict(self) | {"columns": list(self.columns), "layout": layout}

    @property
    def sha256(self) -> str:
        """Hash of the settings' record and of the files' schema."""
        return sha256_of_json([SCHEMA, self.record()])


@dataclass(frozen=True)
class Source:
    """A corpus: one file of text, TSV or records, or the two files of a Moses pair.

    Attributes:
        kind: "mono" or "pair".
        languages: one language, or (source, target).
        paths: its files, see `readers.TextFile`.
        settings: what a run plans it with; in a mix of corpora each has its own.
    """

    kind: Kind
    languages: tuple[str, ...]
    paths: tuple[TextFile, ...]
    settings: Settings = field(default_factory=Settings)

    @property
    def name(self) -> str:
        """The file name or names, for messages."""
        return " + ".join(readable_name(path.name) for path in self.paths)


@dataclass(frozen=True)
class SourcePlan:
    """A checked source and its shards.

    Attributes:
        bad_lines: lines to set aside or to skip; without any, text need not be checked again.
        in_place: every file can be read from anywhere and is read where it lies; what other archives hold, from `spool`.
        spool: None if the text was read for the plan alone.
        hashes: a hash for each line, where repeated ones are looked for.
        duplicates: the lines that repeat earlier ones, once those of all sources are compared.
    """

    source: Source
    settings: Settings
    files: tuple[SourceFile, ...]
    ranges: tuple[ShardRange, ...] = ()
    bad_lines: int = 0
    in_place: bool = True
    spool: Spool | None = None
    hashes: Path | None = None
    duplicates: Duplicates | None = None

    @property
    def bytes(self) -> int:
        """Decompressed text of the whole source."""
        return sum(shard.bytes for shard in self.ranges)

    @property
    def identity(self) -> str:
        """Full hash of the source, see `marker.source_identity`."""
        files = [(file.name, file.sha256) for file in self.files]
        return source_identity(self.source.kind, self.source.languages, files)

    @property
    def source_stem(self) -> str:
        """Folder, name and source hash, common to every set of settings: `mono/de/de.txt.xz-1a2b3c4d`."""
        name = re.sub(r"[^A-Za-z0-9._]+", "_", self.files[0].name).lstrip(".") or "text"
        return f"{self.source.kind}/{'-'.join(self.source.languages)}/{name[:80]}-{self.identity[:NAME_HASH]}"

    @property
    def settings_stem(self) -> str:
        """Common beginning of this plan's stems: other settings give other names, so nothing is overwritten."""
        return f"{self.source_stem}-{self.settings.sha256[:NAME_HASH]}"

    def stem(self, index: int) -> str:
        """Stem of shard `index`, relative to the data folder."""
        return f"{self.settings_stem}-{index:05d}"

    def text(self, index: int) -> tuple[TextPiece, ...]:
        """Where the text of shard `index` lies, one piece per file of the source."""
        shard, pieces = self.ranges[index], []
        for side, (path, file) in enumerate(zip(self.source.paths, self.files, strict=True)):
            start, end = shard.starts[side], shard.ends[side]
            if self.in_place:
                assert isinstance(path, Path) and not isinstance(file.state, str), "only local files are read in place"
                pieces.append(TextPiece(path, start, end, path, file.state))
            else:
                pieces.append(TextPiece(self.spooled(index, side), 0, end - start, path, None))
        return tuple(pieces)

    def spooled(self, index: int, side: int) -> Path:
        """Where the text of an archive's shard is kept."""
        assert self.spool is not None, "planned without a place for its text"
        return self.spool.folder / f"{self.stem(index).replace('/', '-')}.{side}"


def make_plan(source: Source, settings: Settings, max_bad_rate: float, spool: Spool | None = None) -> SourcePlan:
    """Read a source once: hash its files, check every line, cut it into shards, and keep the text of archives.

    Args:
        max_bad_rate: share of lines that may be unusable.
        spool: where the text of archives goes; without it the plan can be shown but not carried out.

    Raises:
        ValueError: a file that cannot be read (see `readers`), no text, unequal line counts, too many bad lines, or a
            file that changed meanwhile.
    """
    with ExitStack() as stack:
        reading = SourceReading(source.paths, stack)
        plan = SourcePlan(source, settings, (), in_place=reading.in_place, spool=spool)
        writer = None
        if spool and not plan.in_place:
            plan = replace(plan, files=reading.files())
            writer = stack.enter_context(SpoolWriter(partial(_wanted, plan), reading.starts))
        cutter = Cutter(settings.shard_bytes, reading.starts, every_line=source.kind == "pair")
        bad = BadLines(max_bad_rate)
        hashes = None
        if spool and settings.filters and settings.filters.finds_duplicates:
            hashes = stack.enter_context(LineHashes(spool.folder, settings.filters, settings.columns, source.languages))
        for lines in in_step(reading.sides):
            _check_equal(reading, cutter.lines, lines)
            bad.check(source.paths, settings.columns, lines, cutter.lines + 1)
            ended = len(cutter.ranges)
            cutter.add(lines)
            if writer:
                writer.add(lines, [shard.ends for shard in cutter.ranges[ended:]])
            if hashes:
                hashes.add(lines)
        cutter.finish()
        _check_whole(source, settings, cutter)
        bad.finish(cutter.lines)
        reading.check_unchanged()
    ranges, path = tuple(cutter.ranges), hashes.path if hashes else None
    return replace(plan, files=reading.files(), ranges=ranges, bad_lines=bad.count + bad.skipped, hashes=path)


def _wanted(plan: SourcePlan, index: int, side: int) -> Path | None:
    """Where to keep the text of a shard that is still to be made."""
    assert plan.spool is not None, "asked only where there is a spool"
    return plan.spooled(index, side) if plan.spool.wants(plan.stem(index)) else None


def _check_equal(reading: SourceReading, before: int, texts: tuple[bytes, ...]) -> None:
    """Refuse files of unequal length, found where the next texts, after `before` lines, are not in step."""
    counts = list(map(count_lines, texts))
    if len(set(counts)) == 1:
        return
    totals = [before + count + sum(map(count_lines, side)) for count, side in zip(counts, reading.sides, strict=True)]
    told = ", ".join(f"{path} has {total} lines" for path, total in zip(reading.paths, totals, strict=True))
    raise ValueError(
        f"{told}; both files of a pair need one line per pair: fetch them again or complete the shorter one"
    )


def _check_whole(source: Source, settings: Settings, cutter: Cutter) -> None:
    if not cutter.has_text:
        raise ValueError(f"{source.paths[0]}: holds no text; give another file or leave it out")
    if len(cutter.ranges) > MAX_SHARDS:
        raise ValueError(
            f"--shard-bytes {settings.shard_bytes}: gives {len(cutter.ranges)} shards; at most {MAX_SHARDS}"
        )


def ensure_text(plan: SourcePlan, wanted: set[int]) -> None:
    """Decode an archive again if the text of a wanted shard was not kept, as its marker was there and proved wrong.

    Raises:
        ValueError: the source has changed since it was planned.
    """
    missing = (
        {i for i in wanted if not all(piece.path.exists() for piece in plan.text(i))} if not plan.in_place else set()
    )
    if not missing:
        return
    for side, path in enumerate(plan.source.paths):
        with ExitStack() as stack:
            stream = stack.enter_context(open_text(path))
            start, blocks = without_mark(stream)
            place = partial(_place_of_side, plan, missing, side)
            writer = stack.enter_context(SpoolWriter(place, (start,)))
            ends = [shard.ends[side] for shard in plan.ranges]
            position, done = start, 0
            for block in blocks:
                position += len(block)
                upto = bisect_left(ends, position, lo=done)
                writer.add((block,), [(end,) for end in ends[done:upto]])
                done = upto
        if state_of(path) != plan.files[side].state:
            raise ValueError(changed(path))


def _place_of_side(plan: SourcePlan, missing: set[int], side: int, index: int, _: int) -> Path | None:
    return plan.spooled(index, side) if index in missing else None
