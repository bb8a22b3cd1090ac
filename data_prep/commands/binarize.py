"""The commands of `python -m data_prep` that make data folders: mono, parallel, mix; and sample.

Turns words into calls and results into words; the work is done elsewhere.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from data_prep.commands.options import (
    AddOption,
    BadRateOption,
    ConfigOption,
    DataDirOption,
    DryRunOption,
    FieldsOption,
    FormatOption,
    LangIdOption,
    LinksOption,
    ReplaceOption,
    RevisionOption,
    ShardBytesOption,
    SplitOption,
    TokenizerOption,
    WorkersOption,
)
from data_prep.data_dir.held import Choice
from data_prep.filters.bounds import DuplicateUnit, MonoFilters, PairFilters
from data_prep.plan.formats import (
    DEFAULT_COLUMNS,
    Reading,
    mono_sources,
    pair_sources,
    parse_language,
    parse_pair,
)
from data_prep.plan.mix import load_mix, mix_sources
from data_prep.plan.source_plan import DEFAULT_SHARD_BYTES, Source
from data_prep.run.job import JobOutcome, run_job
from data_prep.sample import write_sample
from data_prep.standard_output import DataCommand, print_table, put
from data_prep.token_files.block_table import DEFAULT_BLOCK_TOKENS

app = typer.Typer()


@app.command(cls=DataCommand)
def mono(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Paths, folders or URLs; text in CC-100 layout (a sentence a line, documents apart by a blank line)."
        ),
    ],
    lang: Annotated[str, typer.Option(help="Language code, as de or zh_Hans.")],
    tokenizer: TokenizerOption,
    out: DataDirOption,
    format: FormatOption = "auto",
    fields: FieldsOption = "",
    documents: Annotated[
        bool, typer.Option("--documents", help="Each record is a document and its lines are sentences.")
    ] = False,
    config: ConfigOption = "",
    split: SplitOption = "",
    revision: RevisionOption = "",
    drop_control: Annotated[
        bool, typer.Option("--drop-control", help="Drop lines with control or replacement characters.")
    ] = False,
    max_characters: Annotated[int | None, typer.Option(help="Drop longer lines.")] = None,
    drop_duplicates: Annotated[
        DuplicateUnit, typer.Option(help="Drop what repeats an earlier line or document of this run.")
    ] = "no",
    lang_id: LangIdOption = None,
    workers: WorkersOption = 1,
    shard_bytes: ShardBytesOption = DEFAULT_SHARD_BYTES,
    block_tokens: Annotated[
        int, typer.Option(help="Training's data.block_tokens; another value works, but starts slower.")
    ] = DEFAULT_BLOCK_TOKENS,
    max_bad_rate: BadRateOption = 0.0,
    replace: ReplaceOption = False,
    add: AddOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Binarize monolingual text.

    Files are plain text or .xz, .gz, .bz2, .zst; JSONL, CSV, Parquet, TMX or zip; folders of such files; or a dataset.

    Example: python -m data_prep mono de.txt.xz --lang de --tokenizer xlmr --out data --workers 8
    """
    language = parse_language(lang, "--lang")
    reading = Reading(format, fields=_names(fields), documents=documents, config=config, split=split, revision=revision)
    filters = MonoFilters(drop_control, max_characters, drop_duplicates, lang_id)
    sources = mono_sources(files, language, reading, filters, shard_bytes, block_tokens)
    _run_and_tell(sources, tokenizer, out, workers, max_bad_rate, dry_run, _choice(replace, add))


@app.command(cls=DataCommand)
def parallel(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE TARGET | FILE",
            help="Two aligned files, or one TSV, zip, TMX, JSONL, CSV or Parquet; or folders.",
        ),
    ],
    pair: Annotated[str, typer.Option(help="Languages of source and target, as en-de or en-zh_Hans.")],
    tokenizer: TokenizerOption,
    out: DataDirOption,
    format: FormatOption = "auto",
    tsv: Annotated[bool, typer.Option("--tsv", help="Short for --format tsv.")] = False,
    columns: Annotated[str, typer.Option(help="The TSV's columns; - is ignored.", show_default=DEFAULT_COLUMNS)] = "",
    fields: FieldsOption = "",
    config: ConfigOption = "",
    split: SplitOption = "",
    revision: RevisionOption = "",
    links: LinksOption = "",
    trust_order: Annotated[
        bool, typer.Option("--trust-order", help="SOURCE is the source side though the file names say otherwise.")
    ] = False,
    min_score: Annotated[
        float | None, typer.Option(help="Drop pairs that score lower, where there are scores.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Drop pairs with a longer side, in tokens.")] = 254,
    max_ratio: Annotated[float, typer.Option(help="Drop pairs whose token counts differ by more.")] = 9.0,
    keep_identical: Annotated[bool, typer.Option("--keep-identical", help="Keep pairs with equal sides.")] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Drop pairs that repeat an earlier one of this run.")
    ] = False,
    lang_id: LangIdOption = None,
    workers: WorkersOption = 1,
    shard_bytes: ShardBytesOption = DEFAULT_SHARD_BYTES,
    max_bad_rate: BadRateOption = 0.0,
    replace: ReplaceOption = False,
    add: AddOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Binarize translation pairs.

    Moses' two files of text; or one TSV (WikiMatrix), OPUS zip, TMX, JSONL, CSV or Parquet; folders of such; or a dataset.

    Example: python -m data_prep parallel train.en train.de --pair en-de --tokenizer xlmr --out data

    Example: python -m data_prep parallel train.en train.de --links train.pharaoh --pair en-de --tokenizer xlmr --out data

    Example: python -m data_prep parallel WikiMatrix.de-en.tsv.gz --pair de-en --tokenizer xlmr --out data

    Example: python -m data_prep parallel opus100 --format dataset --config de-en --fields translation.de,translation.en
    --pair de-en --tokenizer xlmr --out data
    """
    languages = parse_pair(pair)
    if tsv and format not in ("auto", "tsv"):
        raise ValueError(f"--tsv --format {format}: one or the other")
    reading = Reading("tsv" if tsv else format, columns, _names(fields), False, config, split, revision, trust_order)
    filters = PairFilters(max_tokens, max_ratio, keep_identical, min_score, drop_duplicates, lang_id)
    sources = pair_sources(files, languages, reading, filters, shard_bytes, links)
    _run_and_tell(sources, tokenizer, out, workers, max_bad_rate, dry_run, _choice(replace, add))


@app.command(cls=DataCommand)
def mix(
    corpora: Annotated[Path, typer.Argument(metavar="CORPUS.yaml", help="Languages, pairs, files and filters.")],
    tokenizer: TokenizerOption,
    out: DataDirOption,
    workers: WorkersOption = 1,
    replace: ReplaceOption = False,
    add: AddOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Binarize a whole mix of corpora.

    One YAML file describes it; docs/data.md has its keys.

    Example: python -m data_prep mix corpora.yaml --tokenizer xlmr --out data --workers 8 --dry-run
    """
    content = load_mix(corpora)
    sources = mix_sources(content, str(corpora))
    _run_and_tell(sources, tokenizer, out, workers, content.max_bad_rate, dry_run, _choice(replace, add))


def _choice(replace: bool, add: bool) -> Choice:
    if replace and add:
        raise ValueError("--replace and --add: one or the other")
    return "replace" if replace else "add" if add else "refuse"


def _names(fields: str) -> tuple[str, ...]:
    return tuple(fields.split(",")) if fields else ()


def _show_plan(outcome: JobOutcome, data_dir: Path) -> None:
    """What a dry run found: a row per source and their sums."""
    table = Table(title=f"{data_dir}, nothing written")
    columns = ("data", "source", "bytes on disk", "bytes of text", "lines", "shards", "to be made")
    for name in columns:
        is_number = name not in columns[:2]
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    rows = []
    for plan, missing in outcome.planned:
        lines = sum(shard.lines for shard in plan.ranges)
        rows.append((sum(file.bytes for file in plan.files), plan.bytes, lines, len(plan.ranges), missing))
        table.add_row("-".join(plan.source.languages), plan.source.name, *(f"{number:,}" for number in rows[-1]))
    table.add_section()
    table.add_row("all", "", *(f"{sum(column):,}" for column in zip(*rows, strict=True)))
    print_table(table)


class JobInterruptedError(Exception):
    """Ctrl-C in a job, which keeps what is finished."""


def _run_and_tell(
    sources: list[Source], tokenizer: Path, out: Path, workers: int, max_bad_rate: float, dry_run: bool, choice: Choice
) -> None:
    """Run the job and print what became of it."""
    try:
        outcome = run_job(sources, tokenizer, out, workers, max_bad_rate, dry_run, choice)
    except KeyboardInterrupt:
        raise JobInterruptedError from None
    if dry_run and outcome.planned:
        _show_plan(outcome, out)
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(outcome.dropped.items())) or "nothing"
    if outcome.made or outcome.skipped:
        written = [_number(count, what) for what, count in outcome.written.items() if count]
        put(
            f"{out}: {_number(outcome.made, 'shard')} written, {outcome.skipped:,} already present, "
            f"{outcome.replaced:,} outdated removed; written: {', '.join(written) or 'nothing'}; dropped: {dropped}"
        )
    if outcome.failures:
        if outcome.made or outcome.skipped or outcome.planned:
            told = "could not be read and is left out; the reason is above"
            print(f"{len(outcome.failures)} of {len(sources)} sources {told}", file=sys.stderr)
        raise typer.Exit(1)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@app.command(cls=DataCommand)
def sample(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Chooses the words and what is said.")] = 0,
) -> None:
    """Write a small generated corpus.

    Several languages with known word alignments.

    Example: python -m data_prep sample --out sample --seed 1
    """
    put(json.dumps(write_sample(out, seed), indent=2))
