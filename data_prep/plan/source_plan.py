"""A source, the settings that its shards are made with, and a plan: where each shard lies in its text, and what it is called.

Knows input, settings and names; nothing of how a plan is made (`make_plan`), of token ids or of workers.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece

from data_prep.files import sha256_of_json
from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.filters.duplicates import Duplicates
from data_prep.plan.cutter import ShardRange
from data_prep.text.readers import TextFile, readable_name
from data_prep.text.records import Layout
from data_prep.text.source_files import SourceFile
from data_prep.text.spool import Spool, TextPiece
from data_prep.token_files.block_table import DEFAULT_BLOCK_TOKENS, SPECIAL_TOKENS
from data_prep.token_files.marker import NAME_HASH, source_identity
from data_prep.token_files.token_file import SCHEMA, Kind

DEFAULT_SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class ShardSettings:
    """What, besides the input and the tokenizer, decides the bytes of a shard."""

    shard_bytes: int = DEFAULT_SHARD_BYTES
    """A shard ends at the first boundary at or after so many bytes of decompressed text."""
    columns: tuple[str, ...] = ()
    """Columns of a TSV file, or of the lines that records become; empty for other layouts."""
    filters: PairFilters | MonoFilters | None = None
    """Bounds for pairs, cleaning for monolingual text; None keeps all of it."""
    layout: Layout | None = None
    """How records become lines; None for files of lines."""
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    """Size of training's blocks, whose places are kept with monolingual text."""
    sentencepiece: str = sentencepiece.__version__
    """Version of the encoder, as another one may give other ids."""

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
    """A corpus: one file of text, TSV or records, or the two files of a Moses pair, and a third of word links if it has one."""

    kind: Kind
    """Either "mono" or "pair"."""
    languages: tuple[str, ...]
    """One language, or (source, target)."""
    paths: tuple[TextFile, ...]
    """Its files, see `readers.TextFile`."""
    settings: ShardSettings = field(default_factory=ShardSettings)
    """What a run plans it with; in a mix of corpora each has its own."""

    @property
    def has_links(self) -> bool:
        """Whether the last of its files holds the word links of its pairs."""
        return len(self.paths) == 3

    @property
    def texts(self) -> tuple[TextFile, ...]:
        """Its files but that of word links."""
        return self.paths[:2]

    @property
    def name(self) -> str:
        """The file name or names, for messages."""
        return " + ".join(readable_name(path.name) for path in self.paths)


@dataclass(frozen=True)
class SourcePlan:
    """A checked source and its shards."""

    source: Source
    settings: ShardSettings
    files: tuple[SourceFile, ...]
    ranges: tuple[ShardRange, ...] = ()
    bad_lines: int = 0
    """Lines to set aside or to skip; without any, text need not be checked again."""
    in_place: bool = True
    """Every file can be read from anywhere and is read where it lies; what other archives hold, from `spool`."""
    spool: Spool | None = None
    """None if the text was read for the plan alone."""
    hashes: Path | None = None
    """A hash for each line, where repeated ones are looked for."""
    duplicates: Duplicates | None = None
    """The lines that repeat earlier ones, once those of all sources are compared."""

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
