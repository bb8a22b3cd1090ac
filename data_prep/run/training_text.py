"""The lines that a tokenizer is trained on: of text, TSV, zip, TMX, records and mixes, read as `mono` and `parallel` do.

Knows sources and their text; nothing of SentencePiece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePath

from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.plan.cutter import BadLineCounter
from data_prep.plan.formats import DEFAULT_COLUMNS, RECORD_FORMATS, Reading
from data_prep.plan.mix import load_mix, mix_sources
from data_prep.plan.source_plan import ShardSettings, Source
from data_prep.text.blocks import count_lines, in_step, line_blocks, unusable, without_mark
from data_prep.text.inputs import Records
from data_prep.text.locations import files_in
from data_prep.text.readers import TextFile, is_blank, open_text, parse_columns, parse_tsv, split_lines
from data_prep.text.records import Layout
from data_prep.text.stored import parse_location
from data_prep.text.zip_members import ZipMember

MIX_SUFFIXES = (".yaml", ".yml")
MAX_LINE_BYTES = 4192  # SentencePiece's own bound
ANY_LANGUAGE = ("und",)


def training_sources(locations: Sequence[str], reading: Reading) -> list[Source]:
    """What files, folders of files and mixes (`.yaml`) hold, in their order.

    Raises:
        ValueError: a file that is not there or not what it is given as, an option that means nothing, or a format whose fields
            have to be named.
    """
    if reading.format == "dataset":
        raise ValueError("--format dataset: describe the dataset in a mix (corpora.yaml), and give that")
    sources: list[Source] = []
    kinds: list[str] = []
    for location in locations:
        if PurePath(location).suffix.lower() in MIX_SUFFIXES:
            sources += mix_sources(load_mix(Path(location)), location)
            continue
        for file in files_in(location):
            kinds.append(reading.format_of(file))
            sources += _sources(file, kinds[-1], reading)
    reading.check_options(kinds or ["a mix"], locations[0])
    return sources


def _sources(location: str, kind: str, reading: Reading) -> list[Source]:
    """A file's sources: one for each field, as all of them are read."""
    file = parse_location(location)
    paths: list[TextFile] = [file]
    if kind == "tsv":
        columns = parse_columns(reading.columns or DEFAULT_COLUMNS)
        return [Source("pair", ANY_LANGUAGE, (file,), ShardSettings(columns=columns))]
    if kind != "text":
        fields = reading.fields or (("text",) if kind in RECORD_FORMATS else ())
        if not fields:
            what = (
                "the languages to take, as the file spells them"
                if kind == "tmx"
                else "the members to take, or languages"
            )
            raise ValueError(f"{location}: name {what}, with --fields, as in --fields en,de")
        paths = [
            ZipMember(file, field) if kind == "zip" else Records(file, Layout(kind, (field,), kind in RECORD_FORMATS))
            for field in fields
        ]
    return [Source("mono", ANY_LANGUAGE, (path,), ShardSettings()) for path in paths]


def training_lines(source: Source, max_bad_rate: float, left_out: Counter[str]) -> Iterator[str]:
    """The lines of a source, both sides of pairs; of a mix those that its filters on the text let pass.

    Args:
        left_out: counts, by reason, what is not given: "unusable" lines, those "longer than 4192 bytes", and what the filters
            drop. Blank lines do not count.

    Raises:
        ValueError: a file that cannot be read, sides of unequal length, or more unusable lines than allowed.
    """
    bad, before, columns = BadLineCounter(max_bad_rate), 0, source.settings.columns
    with ExitStack() as stack:
        starts_and_blocks = [without_mark(stack.enter_context(open_text(path))) for path in source.texts]
        sides = [line_blocks(blocks, path) for (_, blocks), path in zip(starts_and_blocks, source.texts, strict=True)]
        for texts in in_step(sides):
            if len(set(map(count_lines, texts))) != 1:
                raise ValueError(f"{source.name}: not as many lines on both sides; see what `data_prep parallel` says")
            bad.check(source.texts, columns, texts, before + 1)
            has_bad = bad.count + bad.skipped > 0
            for lines in zip(*map(split_lines, texts), strict=True):
                if has_bad and any(unusable(raw, columns) for raw in lines):
                    left_out["unusable"] += 1
                    continue
                yield from _texts(lines, source, left_out)
            before += count_lines(texts[0])
        bad.finish(before)


def _texts(lines: tuple[bytes, ...], source: Source, left_out: Counter[str]) -> Iterator[str]:
    """The sentences of one record that are to be trained on."""
    filters, score, reason = source.settings.filters, None, None
    if source.settings.columns:
        *texts, score = parse_tsv(lines[0], source.settings.columns)
    else:
        texts = [raw.decode() for raw in lines]
    if isinstance(filters, PairFilters):
        reason = filters.drop_text(texts[0], texts[1], score)
    elif isinstance(filters, MonoFilters):
        reason = filters.drop_text(texts[0])
    if reason:
        left_out[reason] += 1
        return
    for text in texts:
        if len(text.encode()) > MAX_LINE_BYTES:
            left_out[f"longer than {MAX_LINE_BYTES} bytes"] += 1
        elif not is_blank(text.encode()):
            yield text
