"""From the words of a user to sources: language codes, formats by option, name and content, fields and columns.

Knows options, and of files their names and first bytes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.filters.language_id import check_known
from data_prep.plan.file_names import check_sides, note_language
from data_prep.plan.source_plan import DEFAULT_SHARD_BYTES, ShardSettings, Source
from data_prep.text.compression import uncompressed_name
from data_prep.text.content import advice_on_encoding, other_encoding, structure_of
from data_prep.text.inputs import Dataset, Records
from data_prep.text.locations import check_present, files_in, head_of, stem_of
from data_prep.text.readers import SCORE, SOURCE, TARGET, check_file, parse_columns
from data_prep.text.records import Layout
from data_prep.text.stored import RemoteFile, StoredFile, parse_location
from data_prep.text.zip_members import ZipMember
from data_prep.token_files.block_table import DEFAULT_BLOCK_TOKENS
from data_prep.token_files.link_file import MOST_TOKENS

LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z0-9]+)*")
SUFFIXES = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".zip": "zip",
    ".tmx": "tmx",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
FORMATS = ("auto", "text", "tsv", "csv", "zip", "tmx", "jsonl", "parquet", "dataset")
RECORD_FORMATS = ("csv", "jsonl", "parquet", "dataset")
DEFAULT_COLUMNS = "score,source,target"
DEFAULT_SPLIT = "train"
RECORD_COLUMNS = (SOURCE, TARGET, SCORE)
# Which formats an option means something for; with others it is an error.
APPLIES_TO = {
    "columns": ("tsv",),
    "fields": ("zip", "tmx", *RECORD_FORMATS),
    "documents": RECORD_FORMATS,
    "config": ("dataset",),
    "split": ("dataset",),
    "revision": ("dataset",),
}
JSON_ADVICE = "make it a record a line, as `jq -c '.[]' FILE > FILE.jsonl` does"


@dataclass(frozen=True)
class Reading:
    """How files are to be read; what is empty was not given."""

    format: str = "auto"
    """One of `FORMATS`; auto goes by the file's name and first bytes."""
    columns: str = ""
    """Of TSV, comma-separated."""
    fields: tuple[str, ...] = ()
    """See `records.Layout`; empty for the format's default."""
    documents: bool = False
    """Monolingual records are documents."""
    config: str = ""
    """Configuration of a dataset."""
    split: str = ""
    """Split of a dataset."""
    revision: str = ""
    """Revision of a dataset."""
    trust_order: bool = False
    """The first file is the source side though the names say otherwise."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format {self.format}: not known; give one of {', '.join(FORMATS)}")

    def format_of(self, location: str) -> str:
        """The format of a file, by its name and, where that says text or JSON, its first bytes.

        Raises:
            ValueError: it is not there, not what its name says, or holds something that is no text of lines.
        """
        if self.format == "dataset":
            return "dataset"
        file = parse_location(location)
        check_present(file)
        named = self.format
        if named == "auto":
            named = SUFFIXES.get(PurePosixPath(uncompressed_name(file.name)).suffix.lower(), "text")
        return _checked_format(named, location, file, self.format != "auto")

    def check_options(self, kinds: Iterable[str], location: str) -> None:
        """Refuse options that mean nothing for any of the files.

        Raises:
            ValueError: there is one.
        """
        kinds = set(kinds)
        for option, formats in APPLIES_TO.items():
            value = getattr(self, option)
            if value and not kinds & set(formats):
                shown = "" if value is True else f" {','.join(value) if isinstance(value, tuple) else value}"
                kind = "plain text" if kinds == {"text"} else "/".join(sorted(kinds))
                raise ValueError(
                    f"--{option}{shown}: means nothing for {location}, which is read as {kind}; leave it out, or give another "
                    f"--format (it is for {', '.join(formats)})"
                )

    def dataset(self, path: str, layout: Layout) -> Dataset:
        """The dataset that is meant."""
        return Dataset(path, self.config, self.split or DEFAULT_SPLIT, self.revision, layout)


def _checked_format(named: str, location: str, file: StoredFile, is_given: bool) -> str:
    """The format by name and option against a file's first bytes."""
    if named not in ("text", "tsv", "csv", "jsonl"):
        return named
    if not isinstance(file, RemoteFile):
        check_file(file)
    head = head_of(file)
    if other_encoding(head):
        raise ValueError(f"{location}: {advice_on_encoding(head)}")
    found = structure_of(head)
    if named == "jsonl" and found == "json":
        raise ValueError(f"{location}: holds one JSON value, not a record a line; {JSON_ADVICE}")
    if is_given or found is None or named != "text":
        return named
    if found == "tmx" and PurePosixPath(uncompressed_name(file.name)).suffix.lower() == ".xml":
        return "tmx"
    told = {"jsonl": "JSON records, a line each: give --format jsonl", "tmx": "a translation memory: give --format tmx"}
    told["json"] = f"JSON: {JSON_ADVICE}"
    advice = told.get(found, f"{found}: extract its text")
    raise ValueError(f"{location}: holds {advice}, or take its lines as they are with --format text")


def parse_language(code: str, option: str) -> str:
    """A language code with underscores between its parts; a hyphen is taken as one, and said so.

    Raises:
        ValueError: not two or three lower-case letters with optional subtags.
    """
    normal = code.replace("-", "_")
    if not LANGUAGE.fullmatch(normal):
        raise ValueError(f"{option} {code}: not a language code; two or three small letters, as de or zh_Hans")
    if normal != code:
        print(f"{option} {code}: taken as {normal}", file=sys.stderr)
    return normal


def parse_pair(pair: str, option: str = "--pair") -> tuple[str, str]:
    """Source and target language of `en-de`.

    Raises:
        ValueError: not exactly one hyphen, a wrong code, or the same language twice.
    """
    codes = pair.split("-")
    if len(codes) != 2:
        raise ValueError(f"{option} {pair}: needs one hyphen, between the languages; write subtags as en-es_LA")
    source, target = (parse_language(code, option) for code in codes)
    if source == target:
        raise ValueError(f"{option} {pair}: the same language twice; name source and target")
    return source, target


def mono_sources(
    locations: Sequence[str],
    language: str,
    reading: Reading,
    filters: MonoFilters,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    block_tokens: int = DEFAULT_BLOCK_TOKENS,
) -> list[Source]:
    """Monolingual text in files, folders of files, or a dataset; a source for each file.

    Raises:
        ValueError: a file that is not there or not text, a format that holds no monolingual text, an option that means
            nothing, too many fields, or a language that cannot be judged.
    """
    if filters.min_language_probability is not None:
        check_known((language,))
    files = locations if reading.format == "dataset" else [file for name in locations for file in files_in(name)]
    kinds = [reading.format_of(file) for file in files]
    reading.check_options(kinds, files[0])
    settings = ShardSettings(shard_bytes, (), filters, block_tokens=block_tokens)
    return [_mono_source(*both, language, reading, settings) for both in zip(files, kinds, strict=True)]


def _mono_source(location: str, kind: str, language: str, reading: Reading, settings: ShardSettings) -> Source:
    file = parse_location(location)
    if kind == "text":
        note_language(file.name, language, "--lang")
        return Source("mono", (language,), (file,), settings)
    if kind == "tsv":
        raise ValueError(
            f"{location}: TSV holds pairs; give it to parallel, or --format text to take its lines as they are"
        )
    default = (language,) if kind in ("tmx", "zip") else ("text",)
    layout = Layout(kind, reading.fields or default, reading.documents and kind in RECORD_FORMATS)
    if len(layout.fields) != 1:
        raise ValueError(f"--fields {','.join(layout.fields)}: monolingual text is one field; name one")
    path = ZipMember(file, layout.fields[0]) if kind == "zip" else _records(location, file, reading, layout)
    return Source("mono", (language,), (path,), replace(settings, layout=layout))


def pair_sources(
    locations: Sequence[str],
    languages: tuple[str, str],
    reading: Reading,
    filters: PairFilters,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    links: str = "",
) -> list[Source]:
    """Translation pairs: Moses' two files of text, or one file of another format, or a dataset; or folders of such files.

    Args:
        links: a file with the word links of Moses' two, see `word_links`; empty for none.

    Raises:
        ValueError: a file that is not there or not what it is given as, another number of files than the format has, an option
            that means nothing, fields that make no pair, a score that is asked for and not there, file names that say that
            source and target are swapped, a language that cannot be judged, or links of what is not two files.
    """
    if filters.min_language_probability is not None:
        check_known(languages)
    groups = [tuple(locations)] if reading.format == "dataset" else _groups(locations)
    kinds = [_kind_of(group, reading) for group in groups]
    reading.check_options(kinds, locations[0])
    sources = [
        _pair_source(*both, languages, reading, filters, shard_bytes) for both in zip(groups, kinds, strict=True)
    ]
    return [_with_links(sources, kinds, filters, links)] if links else sources


def _with_links(sources: Sequence[Source], kinds: Sequence[str], filters: PairFilters, links: str) -> Source:
    if list(kinds) != ["text"]:
        raise ValueError(f"--links {links}: goes with two files of text, SOURCE TARGET; write the pairs as such")
    if filters.max_tokens > MOST_TOKENS:
        raise ValueError(f"--max-tokens {filters.max_tokens}: with --links at most {MOST_TOKENS}")
    (source,) = sources
    return replace(source, paths=(*source.paths, parse_location(links)))


def _groups(locations: Sequence[str]) -> list[tuple[str, ...]]:
    """The files of each source: two folders hold the two sides of Moses pairs, one folder files of another format."""
    parts = [files_in(location) for location in locations]
    if parts == [[location] for location in locations]:
        return [tuple(locations)]
    if len(parts) == 1:
        return [(file,) for file in parts[0]]
    if len(parts) != 2 or len(parts[0]) != len(parts[1]):
        counts = ", ".join(f"{location} {len(part)}" for location, part in zip(locations, parts, strict=True))
        raise ValueError(f"folders of pairs are two with as many files each, or one; found: {counts}")
    for source, target in zip(*parts, strict=True):
        if stem_of(source) != stem_of(target):
            raise ValueError(f"{source} would be paired with {target}; name them so that they sort alike")
    return list(zip(*parts, strict=True))


def _kind_of(group: Sequence[str], reading: Reading) -> str:
    kinds = {reading.format_of(location) for location in group}
    kind = kinds.pop() if len(kinds) == 1 else "text"
    if len(group) != (2 if kind == "text" else 1):
        told = (
            "a Moses pair is two, SOURCE TARGET; TSV, CSV, zip, TMX, JSONL, Parquet and datasets are one (see --format)"
        )
        raise ValueError(f"{' '.join(group)}: {len(group)} files given: {told}")
    return kind


def _pair_source(
    group: Sequence[str],
    kind: str,
    languages: tuple[str, str],
    reading: Reading,
    filters: PairFilters,
    shard_bytes: int,
) -> Source:
    files = [parse_location(location) for location in group]
    if not reading.trust_order:
        check_sides(group, kind, languages)
    layout, columns = _pair_layout(kind, languages, reading)
    if filters.min_score is not None and SCORE not in columns:
        where = f"--columns {reading.columns or DEFAULT_COLUMNS} has" if kind == "tsv" else f"{group[0]} has"
        raise ValueError(
            f"--min-score {filters.min_score}: {where} no score; name its column or field, or leave it out"
        )
    settings = ShardSettings(shard_bytes, columns, filters, layout)
    if layout is None:
        return Source("pair", languages, tuple(files), settings)
    if kind == "zip":
        return Source("pair", languages, tuple(ZipMember(files[0], field) for field in layout.fields), settings)
    return Source("pair", languages, (_records(group[0], files[0], reading, layout),), settings)


def _pair_layout(kind: str, languages: tuple[str, str], reading: Reading) -> tuple[Layout | None, tuple[str, ...]]:
    """How records become pairs, and the columns of the lines that they make."""
    if kind == "text":
        return None, ()
    if kind == "tsv":
        return None, parse_columns(reading.columns or DEFAULT_COLUMNS)
    by_language = kind in ("tmx", "zip")
    fields = reading.fields or (languages if by_language else ())
    if not 2 <= len(fields) <= (2 if by_language else 3):
        told = "two languages as the file spells them" if by_language else "source, target and, if there is one, score"
        raise ValueError(f"--fields {','.join(fields) or '(none)'}: {kind} needs the names of {told}")
    return Layout(kind, fields), () if kind == "zip" else RECORD_COLUMNS[: len(fields)]


def _records(location: str, file: StoredFile, reading: Reading, layout: Layout) -> Records | Dataset:
    if layout.format != "dataset":
        return Records(file, layout)
    return reading.dataset(location.removeprefix("file://"), layout)
