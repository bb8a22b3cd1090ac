"""From the words of a user to a source: language codes, formats by name or option, fields and columns.

Knows options and file names; opens nothing.
"""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from data_prep.block_table import DEFAULT_BLOCK_TOKENS
from data_prep.compression import uncompressed_name
from data_prep.filters import MonoFilters, PairFilters
from data_prep.inputs import Dataset, Records, StoredFile, ZipMember, parse_location
from data_prep.language_id import check_known
from data_prep.plan import DEFAULT_SHARD_BYTES, Settings, Source
from data_prep.readers import SCORE, SOURCE, TARGET, parse_columns
from data_prep.records import Layout

LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z0-9]+)*")
SUFFIXES = {
    ".tsv": "tsv",
    ".zip": "zip",
    ".tmx": "tmx",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
FORMATS = ("auto", "text", "tsv", "zip", "tmx", "jsonl", "parquet", "dataset")
DEFAULT_COLUMNS = "score,source,target"
RECORD_COLUMNS = (SOURCE, TARGET, SCORE)


@dataclass(frozen=True)
class Reading:
    """How files are to be read.

    Attributes:
        format: one of `FORMATS`; auto goes by the file's name.
        columns: of TSV, comma-separated.
        fields: see `records.Layout`; empty for the format's default.
        documents: monolingual records are documents.
        config, split, revision: of a dataset.
    """

    format: str = "auto"
    columns: str = DEFAULT_COLUMNS
    fields: tuple[str, ...] = ()
    documents: bool = False
    config: str = ""
    split: str = "train"
    revision: str = ""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format {self.format}: not known; give one of {', '.join(FORMATS)}")

    def format_of(self, name: str) -> str:
        """The format of a file of this name."""
        if self.format != "auto":
            return self.format
        return SUFFIXES.get(PurePosixPath(uncompressed_name(name)).suffix.lower(), "text")

    def dataset(self, path: str, layout: Layout) -> Dataset:
        """The dataset that is meant."""
        return Dataset(path, self.config, self.split, self.revision, layout)


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


def mono_source(
    location: str,
    language: str,
    reading: Reading,
    filters: MonoFilters,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    block_tokens: int = DEFAULT_BLOCK_TOKENS,
) -> Source:
    """Monolingual text in one file or dataset.

    Raises:
        ValueError: a format that holds no monolingual text, too many fields, or a language that cannot be judged.
    """
    file = parse_location(location)
    kind = reading.format_of(file.name)
    if filters.min_language_probability is not None:
        check_known((language,))
    settings = Settings(shard_bytes, (), filters, block_tokens=block_tokens)
    if kind == "text":
        return Source("mono", (language,), (file,), settings)
    if kind == "tsv":
        raise ValueError(
            f"{location}: TSV holds pairs; give it to parallel, or --format text to take its lines as they are"
        )
    default = (language,) if kind in ("tmx", "zip") else ("text",)
    layout = Layout(kind, reading.fields or default, reading.documents)
    if len(layout.fields) != 1:
        raise ValueError(f"--fields {','.join(layout.fields)}: monolingual text is one field; name one")
    path = ZipMember(file, layout.fields[0]) if kind == "zip" else _records(location, file, reading, layout)
    return Source("mono", (language,), (path,), replace(settings, layout=layout))


def pair_source(
    locations: list[str],
    languages: tuple[str, str],
    reading: Reading,
    filters: PairFilters,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> Source:
    """Translation pairs: Moses' two files of text, or one file of another format, or a dataset.

    Raises:
        ValueError: another number of files than the format has, fields that make no pair, a score that is asked for and not
            there, or a language that cannot be judged.
    """
    files = [parse_location(location) for location in locations]
    kinds = {reading.format_of(file.name) for file in files}
    kind = kinds.pop() if len(kinds) == 1 else "text"
    if len(files) != (2 if kind == "text" else 1):
        told = "a Moses pair is two, SOURCE TARGET; TSV, zip, TMX, JSONL, Parquet and datasets are one (see --format)"
        raise ValueError(f"{len(files)} files given: {told}")
    if filters.min_language_probability is not None:
        check_known(languages)
    layout, columns = _pair_layout(kind, languages, reading)
    if filters.min_score is not None and SCORE not in columns:
        where = f"--columns {reading.columns} has" if kind == "tsv" else f"{locations[0]} has"
        raise ValueError(
            f"--min-score {filters.min_score}: {where} no score; name its column or field, or leave it out"
        )
    settings = Settings(shard_bytes, columns, filters, layout)
    if layout is None:
        return Source("pair", languages, tuple(files), settings)
    if kind == "zip":
        return Source("pair", languages, tuple(ZipMember(files[0], field) for field in layout.fields), settings)
    return Source("pair", languages, (_records(locations[0], files[0], reading, layout),), settings)


def _pair_layout(kind: str, languages: tuple[str, str], reading: Reading) -> tuple[Layout | None, tuple[str, ...]]:
    """How records become pairs, and the columns of the lines that they make."""
    if kind == "text":
        return None, ()
    if kind == "tsv":
        return None, parse_columns(reading.columns)
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
