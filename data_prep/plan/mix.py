"""A corpus mix as one YAML file: languages, pairs, files with globs, formats and filters; its sources, in its order.

A strict schema: an unknown key, a wrong type or an impossible value is a ValueError of one line that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from data_prep.filters.bounds import DuplicateUnit, MonoFilters, PairFilters
from data_prep.plan.formats import (
    DEFAULT_COLUMNS,
    DEFAULT_SPLIT,
    Reading,
    mono_sources,
    pair_sources,
    parse_language,
    parse_pair,
)
from data_prep.plan.source_plan import DEFAULT_SHARD_BYTES, Source
from data_prep.sections import Positive, Section, Whole, checked, read_yaml
from data_prep.text.locations import expand, stem_of
from data_prep.token_files.block_table import DEFAULT_BLOCK_TOKENS, SPECIAL_TOKENS

Names = Annotated[str | list[str], Field(min_length=1)]
Format = Literal["auto", "text", "tsv", "csv", "zip", "tmx", "jsonl", "parquet"]


class MonoSection(Section):
    """Cleaning of monolingual text; what is not given keeps the mix's or else the program's default."""

    drop_control: bool = Field(False, description="drop lines with control or replacement characters")
    max_characters: Positive | None = Field(None, description="drop longer lines; null keeps all")
    drop_duplicates: DuplicateUnit = Field("no", description="drop repeated lines or documents of a language")
    lang_id: float | None = Field(
        None, gt=0, le=1, description="drop lines of another language from this probability on"
    )


class PairSection(Section):
    """Filters of pairs; what is not given keeps the mix's or else the program's default."""

    max_tokens: Positive = Field(254, description="drop pairs with a longer side, in tokens")
    max_ratio: float = Field(9.0, ge=1, description="drop pairs whose token counts differ by more")
    keep_identical: bool = Field(False, description="keep pairs with equal sides")
    min_score: float | None = Field(None, description="drop pairs that score lower; null keeps all")
    drop_duplicates: bool = Field(False, description="drop pairs that repeat an earlier one of the mix")
    lang_id: float | None = Field(None, gt=0, le=1, description="drop pairs with a side in another language")


class Corpus(Section):
    """One entry of the mix: exactly one of mono and pair, and one of files, dataset, or source_files and target_files."""

    mono: Names | None = Field(None, description="language, or several with {lang} in files")
    pair: Names | None = Field(
        None, description="en-de, or several with {source}, {target} or {pair} in the file names"
    )
    files: Names | None = Field(None, description="paths, folders, globs or URLs of single-file formats")
    source_files: Names | None = Field(None, description="of Moses pairs: the source side's files")
    target_files: Names | None = Field(None, description="of Moses pairs: the target side's files, in the same order")
    link_files: Names | None = Field(
        None, description="word links of source_files and target_files, in the same order; see --links of `parallel`"
    )
    dataset: str | None = Field(None, description="a dataset of the Hugging Face hub, or its folder")
    config: str = Field("", description="the dataset's configuration")
    split: str = Field(DEFAULT_SPLIT, description="the dataset's split")
    revision: str = Field("", description="the dataset's branch, tag or commit")
    format: Format = Field("auto", description="how files are read; auto goes by their names")
    columns: str = Field(DEFAULT_COLUMNS, description="columns of TSV; - is ignored")
    fields: list[str] = Field([], description="field names of JSONL, Parquet and datasets; languages in TMX and zip")
    documents: bool = Field(False, description="monolingual records are documents, their lines sentences")
    trust_order: bool = Field(False, description="source_files are the source though their names say the target")
    filters: dict[str, Any] = Field({}, description="filters of this corpus, over the mix's")


class Mix(Section):
    """A corpus mix. Its order decides which of equal texts is the first and stays."""

    corpora: list[Corpus] = Field(min_length=1, description="what is read")
    mono_filters: MonoSection = Field(MonoSection(), description="cleaning of all monolingual text")
    pair_filters: PairSection = Field(PairSection(), description="filters of all pairs")
    shard_bytes: Positive = Field(DEFAULT_SHARD_BYTES, description="decompressed text per shard, in bytes")
    block_tokens: Whole = Field(DEFAULT_BLOCK_TOKENS, gt=SPECIAL_TOKENS, description="training's data.block_tokens")
    max_bad_rate: float = Field(0.0, ge=0, lt=1, description="share of unusable lines to set aside in quarantine/")


def load_mix(path: Path) -> Mix:
    """Read a mix; relative paths in it are relative to the caller.

    Raises:
        ValueError: it cannot be read, is no YAML, or does not fit the schema; names the nearest key.
    """
    content = read_yaml(path, "mix")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no mix; it needs a list `corpora`, see docs/data.md")
    return checked(Mix, content, str(path))


def mix_sources(mix: Mix, name: str) -> list[Source]:
    """The sources of a mix, in its order: corpora as listed, their languages as listed, globs sorted.

    Raises:
        ValueError: see `formats`; a glob without a file, or a corpus that names too much or too little. Each names the
            corpus by its place in the list, from 1.
    """
    sources: list[Source] = []
    for number, corpus in enumerate(mix.corpora, start=1):
        try:
            sources += _mono_sources(corpus, mix) if corpus.mono else _pair_sources(corpus, mix)
        except ValueError as error:
            raise ValueError(f"{name}: corpus {number}: {error}") from None
    return sources


def _mono_sources(corpus: Corpus, mix: Mix) -> list[Source]:
    of_pairs = corpus.pair or corpus.source_files or corpus.target_files or corpus.link_files
    if of_pairs or not (corpus.files or corpus.dataset):
        raise ValueError("monolingual text is `mono` with `files` or `dataset`; leave the others out")
    options = _over(mix.mono_filters, corpus.filters)
    filters = MonoFilters(options.drop_control, options.max_characters, options.drop_duplicates, options.lang_id)
    sources: list[Source] = []
    for code in _listed(corpus.mono):
        language = parse_language(code, "mono")

        def fill(text: str, code: str = code) -> str:
            return text.replace("{lang}", code)

        locations = _locations(corpus, fill)
        sources += mono_sources(locations, language, _reading(corpus), filters, mix.shard_bytes, mix.block_tokens)
    return sources


def _pair_sources(corpus: Corpus, mix: Mix) -> list[Source]:
    moses = bool(corpus.source_files and corpus.target_files)
    if not corpus.pair or sum([moses, bool(corpus.files), bool(corpus.dataset)]) != 1:
        raise ValueError("give `mono` or `pair`, and with a pair `files`, `dataset`, or source_files and target_files")
    options = _over(mix.pair_filters, corpus.filters)
    filters = PairFilters(
        options.max_tokens,
        options.max_ratio,
        options.keep_identical,
        options.min_score,
        options.drop_duplicates,
        options.lang_id,
    )
    sources: list[Source] = []
    for pair in _listed(corpus.pair):
        languages, codes = parse_pair(pair, "pair"), pair.split("-")

        def fill(text: str, pair: str = pair, codes: list[str] = codes) -> str:
            return text.replace("{pair}", pair).replace("{source}", codes[0]).replace("{target}", codes[1])

        groups = _moses(corpus, fill) if moses else [[location] for location in _locations(corpus, fill)]
        links = [path for name in _listed(corpus.link_files) for path in expand(fill(name))] or [""] * len(groups)
        if len(links) != len(groups) or (any(links) and not moses):
            raise ValueError(f"link_files are {len(links)}; give one to each of source_files and target_files")
        for group, of_group in zip(groups, links, strict=True):
            sources += pair_sources(group, languages, _reading(corpus), filters, mix.shard_bytes, of_group)
    return sources


def _over(default: Section, own: dict[str, Any]) -> Any:
    """A corpus's filters over the mix's."""
    return checked(type(default), default.model_dump() | own, "filters")


def _reading(corpus: Corpus) -> Reading:
    """How the corpus is to be read; a key that was not given is empty."""
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key in ("columns", "fields", "documents", "config", "split", "revision", "trust_order")
        if key in corpus.model_fields_set and (value := getattr(corpus, key))
    }
    return Reading("dataset" if corpus.dataset else corpus.format, **options)


def _listed(names: str | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def _locations(corpus: Corpus, fill: Callable[[str], str]) -> list[str]:
    if corpus.dataset:
        return [fill(corpus.dataset)]
    return [path for name in _listed(corpus.files) for path in expand(fill(name))]


def _moses(corpus: Corpus, fill: Callable[[str], str]) -> list[list[str]]:
    """Pairs of files; where globs find several, their names must agree but for the language at the end."""
    sides = [
        [path for name in _listed(names) for path in expand(fill(name))]
        for names in (corpus.source_files, corpus.target_files)
    ]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"source_files are {len(sides[0])}, target_files {len(sides[1])}; each needs its partner")
    for source, target in zip(*sides, strict=True):
        if len(sides[0]) > 1 and stem_of(source) != stem_of(target):
            raise ValueError(f"{source} would be paired with {target}; name them so that they sort alike")
    return [list(pair) for pair in zip(*sides, strict=True)]
