"""The commands of `python -m data_prep`: their options, help, errors and printed results.

Turns words into calls and results into words; the work is in the other rooms.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from data_prep import cli_files
from data_prep.block_table import DEFAULT_BLOCK_TOKENS
from data_prep.filters import DuplicateUnit, MonoFilters, PairFilters
from data_prep.formats import DEFAULT_COLUMNS, Reading, mono_source, pair_source, parse_language, parse_pair
from data_prep.job import Outcome, run_job
from data_prep.mix import load_mix, mix_sources
from data_prep.plan import DEFAULT_SHARD_BYTES
from data_prep.ranks import run_on_ranks
from data_prep.readers import BadRecordError, decode_line, is_blank, open_text
from data_prep.sample import write_sample
from data_prep.standard_output import DataCommand, data_console, put
from data_prep.tokenizer import MODEL_NAME, import_tokenizer, train

MAX_TRAINING_LINE_BYTES = 4192

app = typer.Typer(
    help="Text to token files: tokenizer, monolingual text, translation pairs, inspection.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
tokenizer_app = typer.Typer(help="Train or import a SentencePiece tokenizer in XLM-R's id layout.")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(cli_files.app)

TokenizerOption = Annotated[Path, typer.Option("--tokenizer", help="TOKENIZER_DIR of `tokenizer train|import`.")]
DataDirOption = Annotated[Path, typer.Option("--out", help="DATA_DIR; several runs may add to one.")]
WorkersOption = Annotated[int, typer.Option(help="Processes that encode; the files are the same for any number.")]
ShardBytesOption = Annotated[int, typer.Option(help="Decompressed text per shard, in bytes.")]
BadRateOption = Annotated[
    float, typer.Option(help="Share of lines (invalid UTF-8, NUL, wrong TSV) to set aside in quarantine/; 0: fail.")
]
FormatOption = Annotated[
    str, typer.Option(help="text, tsv, zip, tmx, jsonl, parquet or dataset; auto goes by the file's name.")
]
FieldsOption = Annotated[
    str,
    typer.Option(help="Comma-separated field names; dots lead into records. TMX and zip: the languages' names there."),
]
ConfigOption = Annotated[str, typer.Option(help="Configuration of a dataset.")]
SplitOption = Annotated[str, typer.Option(help="Split of a dataset.")]
RevisionOption = Annotated[str, typer.Option(help="Branch, tag or commit of a dataset.")]
LangIdOption = Annotated[
    float | None,
    typer.Option(help="Drop text that is another language with at least this probability (0.8 is usual; slow)."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show bytes and shards of each source; write nothing.")]


@tokenizer_app.command("train", cls=DataCommand)
def train_tokenizer(
    files: Annotated[list[Path], typer.Argument(help="Text, one sentence a line; plain, .xz, .gz or .zst.")],
    vocab_size: Annotated[int, typer.Option(help="SentencePiece pieces; the model's vocabulary is two larger.")],
    out: Annotated[Path, typer.Option(help="TOKENIZER_DIR to write.")],
    character_coverage: Annotated[float, typer.Option(help="Share of characters with a piece of their own.")] = 0.9995,
) -> None:
    """Train a SentencePiece unigram model. The same files in the same order give the same model.

    Example: python -m data_prep tokenizer train de.txt.xz en.txt.xz --vocab-size 32000 --out tokenizer
    """
    if not 0 < character_coverage <= 1:
        raise ValueError(f"--character-coverage {character_coverage}: must be above 0 and at most 1; 0.9995 is usual")
    lines: list[str] = []
    too_long = 0
    for path in files:
        with open_text(path) as stream:
            for number, raw in enumerate(stream, start=1):
                text = _training_line(path, number, raw)
                too_long += len(raw) > MAX_TRAINING_LINE_BYTES
                if not is_blank(raw) and len(raw) <= MAX_TRAINING_LINE_BYTES:
                    lines.append(text)
    if not lines:
        raise ValueError(f"{files[0]}: no line to train on; give files with text")
    tokenizer = train(lines, vocab_size, character_coverage, MAX_TRAINING_LINE_BYTES)
    tokenizer.save(out)
    put(f"{out}: {vocab_size} pieces from {len(lines)} lines, vocabulary {tokenizer.vocab_size}")
    if too_long:
        put(f"left out: {too_long} lines longer than {MAX_TRAINING_LINE_BYTES} bytes")


def _training_line(path: Path, number: int, raw: bytes) -> str:
    try:
        return decode_line(raw.rstrip(b"\n")).removeprefix("\ufeff" if number == 1 else "")
    except BadRecordError as reason:
        raise ValueError(f"{path}:{number}: {reason} in {raw[:40]!r}; mend or delete the line") from None


@tokenizer_app.command("import", cls=DataCommand)
def import_tokenizer_command(
    model: Annotated[
        Path, typer.Argument(help="A sentencepiece.bpe.model, a tokenizer.json, or a Hugging Face folder with either.")
    ],
    out: Annotated[Path, typer.Option(help="TOKENIZER_DIR to write.")],
) -> None:
    """Take over an existing SentencePiece model of XLM-R's kind, such as XLM-R's own.

    `hf download FacebookAI/xlm-roberta-base --local-dir xlm-roberta-base` gets a folder with one.

    Example: python -m data_prep tokenizer import xlm-roberta-base --out xlmr
    """
    tokenizer = import_tokenizer(model)
    tokenizer.save(out)
    put(f"{out}: {MODEL_NAME} sha256 {tokenizer.sha256}, vocabulary {tokenizer.vocab_size}")


@app.command(cls=DataCommand)
def mono(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Paths or URLs; text in CC-100 layout (a sentence a line, documents apart by a blank line)."
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
    split: SplitOption = "train",
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
    dry_run: DryRunOption = False,
) -> None:
    """Binarize monolingual text: plain, .xz, .gz or .zst, JSONL, Parquet, TMX, or a dataset.

    Example: python -m data_prep mono de.txt.xz --lang de --tokenizer xlmr --out data --workers 8
    """
    language = parse_language(lang, "--lang")
    reading = Reading(format, fields=_names(fields), documents=documents, config=config, split=split, revision=revision)
    filters = MonoFilters(drop_control, max_characters, drop_duplicates, lang_id)
    sources = [mono_source(file, language, reading, filters, shard_bytes, block_tokens) for file in files]
    _finish(run_job(sources, tokenizer, out, workers, max_bad_rate, dry_run), out, dry_run)


@app.command(cls=DataCommand)
def parallel(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE TARGET | FILE", help="Two aligned files, or one TSV, zip, TMX, JSONL or Parquet."
        ),
    ],
    pair: Annotated[str, typer.Option(help="Languages of source and target, as en-de or en-zh_Hans.")],
    tokenizer: TokenizerOption,
    out: DataDirOption,
    format: FormatOption = "auto",
    tsv: Annotated[bool, typer.Option("--tsv", help="Short for --format tsv.")] = False,
    columns: Annotated[str, typer.Option(help="The TSV's columns; - is ignored.")] = DEFAULT_COLUMNS,
    fields: FieldsOption = "",
    config: ConfigOption = "",
    split: SplitOption = "train",
    revision: RevisionOption = "",
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
    dry_run: DryRunOption = False,
) -> None:
    """Binarize translation pairs: Moses' two files, or one TSV (WikiMatrix), OPUS zip, TMX, JSONL or Parquet, or a dataset.

    Example: python -m data_prep parallel train.en train.de --pair en-de --tokenizer xlmr --out data

    Example: python -m data_prep parallel WikiMatrix.de-en.tsv.gz --pair de-en --tokenizer xlmr --out data

    Example: python -m data_prep parallel opus100 --format dataset --config de-en --fields translation.de,translation.en
    --pair de-en --tokenizer xlmr --out data
    """
    languages = parse_pair(pair)
    kind = "tsv" if tsv else format
    reading = Reading(kind, columns, _names(fields), config=config, split=split, revision=revision)
    filters = PairFilters(max_tokens, max_ratio, keep_identical, min_score, drop_duplicates, lang_id)
    source = pair_source(files, languages, reading, filters, shard_bytes)
    _finish(run_job([source], tokenizer, out, workers, max_bad_rate, dry_run), out, dry_run)


@app.command(cls=DataCommand)
def mix(
    corpora: Annotated[Path, typer.Argument(metavar="CORPUS.yaml", help="Languages, pairs, files and filters.")],
    tokenizer: TokenizerOption,
    out: DataDirOption,
    workers: WorkersOption = 1,
    dry_run: DryRunOption = False,
) -> None:
    """Binarize everything that one YAML file describes; docs/data.md has its keys.

    Example: python -m data_prep mix corpora.yaml --tokenizer xlmr --out data --workers 8 --dry-run
    """
    content = load_mix(corpora)
    sources = mix_sources(content, str(corpora))
    _finish(run_job(sources, tokenizer, out, workers, content.max_bad_rate, dry_run), out, dry_run)


def _names(fields: str) -> tuple[str, ...]:
    return tuple(fields.split(",")) if fields else ()


def _show_plan(outcome: Outcome, data_dir: Path) -> None:
    """What a dry run found: a row per source and their sums."""
    table = Table(title=f"{data_dir}, nothing written")
    columns = ("data", "source", "bytes on disk", "bytes of text", "lines", "shards", "to be made")
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:2] else "right", overflow="fold")
    rows = []
    for plan, missing in outcome.planned:
        lines = sum(shard.lines for shard in plan.ranges)
        rows.append((sum(file.bytes for file in plan.files), plan.bytes, lines, len(plan.ranges), missing))
        table.add_row("-".join(plan.source.languages), plan.source.name, *(f"{number:,}" for number in rows[-1]))
    table.add_section()
    table.add_row("all", "", *(f"{sum(column):,}" for column in zip(*rows, strict=True)))
    data_console().print(table)


def _finish(outcome: Outcome, data_dir: Path, dry_run: bool) -> None:
    for failure in outcome.failures:
        _print_error(failure)
    if dry_run and outcome.planned:
        _show_plan(outcome, data_dir)
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(outcome.dropped.items())) or "nothing"
    if outcome.made or outcome.skipped:
        put(
            f"{data_dir}: {outcome.made} shards made, {outcome.skipped} were there, {outcome.replaced} of other "
            f"settings removed; made: {outcome.documents:,} documents, {outcome.sequences:,} sequences, "
            f"{outcome.tokens:,} tokens; dropped: {dropped}"
        )
    if outcome.failures:
        raise typer.Exit(1)


@app.command(cls=DataCommand)
def sample(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Chooses the words and what is said.")] = 0,
) -> None:
    """Write a small generated corpus of several languages with known word alignments.

    Example: python -m data_prep sample --out sample --seed 1
    """
    put(json.dumps(write_sample(out, seed), indent=2))


def _print_error(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and give its exit code: 0, 1 (an error, one line), 2 (wrong usage, one line), 130 (interrupted).

    Under mpiexec every rank calls this, and rank 0 alone reads the arguments and prints.
    """
    return run_on_ranks(partial(_run, arguments), _print_error)


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (ValueError, OSError) as error:
        _print_error(str(error))
        code = 1
    except Exception as error:
        # typer's usage errors changed their base class between versions; what they share is this method
        if not hasattr(error, "format_message"):
            raise
        _print_error(error.format_message() or "no command given; see --help")
        code = 2
    if code == 130:
        print("interrupted; finished shards are kept, run the same command again", file=sys.stderr)
    return code if isinstance(code, int) else 0
