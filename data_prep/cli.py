"""The commands of `python -m data_prep`: their options, help, errors and printed results.

Turns words into calls and results into words; the work is in the other rooms.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from data_prep.filters import PairFilters
from data_prep.job import Outcome, run_job
from data_prep.manifest import Manifest, Shard
from data_prep.plan import DEFAULT_SHARD_BYTES, Settings, Source
from data_prep.readers import BadRecordError, decode_line, is_blank, open_text, parse_columns
from data_prep.sample import write_sample
from data_prep.tokenizer import MODEL_NAME, Tokenizer, train
from data_prep.verify import find_problems

MAX_TRAINING_LINE_BYTES = 4192
LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Za-z0-9]+)*")

app = typer.Typer(
    help="Text to token files: tokenizer, monolingual text, translation pairs, inspection.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
tokenizer_app = typer.Typer(help="Train or import a SentencePiece tokenizer in XLM-R's id layout.")
app.add_typer(tokenizer_app, name="tokenizer")

TokenizerOption = Annotated[Path, typer.Option("--tokenizer", help="TOKENIZER_DIR of `tokenizer train|import`.")]
DataDirOption = Annotated[Path, typer.Option("--out", help="DATA_DIR; several runs may add to one.")]
WorkersOption = Annotated[int, typer.Option(help="Processes that encode; the files are the same for any number.")]
ShardBytesOption = Annotated[int, typer.Option(help="Decompressed text per shard, in bytes.")]
BadRateOption = Annotated[
    float, typer.Option(help="Share of lines (invalid UTF-8, NUL, wrong TSV) to set aside in quarantine/; 0: fail.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DataDirArgument = Annotated[Path, typer.Argument(metavar="DATA_DIR", help="Folder written by mono and parallel.")]


@tokenizer_app.command("train")
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
    print(f"{out}: {vocab_size} pieces from {len(lines)} lines, vocabulary {tokenizer.vocab_size}")
    if too_long:
        print(f"left out: {too_long} lines longer than {MAX_TRAINING_LINE_BYTES} bytes")


def _training_line(path: Path, number: int, raw: bytes) -> str:
    try:
        return decode_line(raw.rstrip(b"\n")).removeprefix("\ufeff" if number == 1 else "")
    except BadRecordError as reason:
        raise ValueError(f"{path}:{number}: {reason} in {raw[:40]!r}; mend or delete the line") from None


@tokenizer_app.command("import")
def import_tokenizer(
    model: Annotated[Path, typer.Argument(help="An existing sentencepiece.bpe.model.")],
    out: Annotated[Path, typer.Option(help="TOKENIZER_DIR to write.")],
) -> None:
    """Take over an existing SentencePiece model, such as XLM-R's.

    Example: python -m data_prep tokenizer import sentencepiece.bpe.model --out xlmr
    """
    if not model.is_file():
        raise ValueError(f"{model}: no such file; give a sentencepiece.bpe.model")
    tokenizer = Tokenizer(model.read_bytes(), str(model))
    tokenizer.save(out)
    print(f"{out}: {MODEL_NAME} sha256 {tokenizer.sha256}, vocabulary {tokenizer.vocab_size}")


@app.command()
def mono(
    files: Annotated[
        list[Path], typer.Argument(help="CC-100 layout: a sentence a line, documents apart by a blank line.")
    ],
    lang: Annotated[str, typer.Option(help="Language code, as de or zh_Hans.")],
    tokenizer: TokenizerOption,
    out: DataDirOption,
    workers: WorkersOption = 1,
    shard_bytes: ShardBytesOption = DEFAULT_SHARD_BYTES,
    max_bad_rate: BadRateOption = 0.0,
) -> None:
    """Binarize monolingual text: plain, .xz, .gz or .zst.

    Example: python -m data_prep mono de.txt.xz --lang de --tokenizer xlmr --out data --workers 8
    """
    language = parse_language(lang, "--lang")
    sources = [Source("mono", (language,), (path,)) for path in files]
    _finish(run_job(sources, Settings(shard_bytes), tokenizer, out, workers, max_bad_rate), out)


@app.command()
def parallel(
    files: Annotated[
        list[Path], typer.Argument(metavar="SOURCE TARGET | TSV", help="Two aligned files, or one with --tsv.")
    ],
    pair: Annotated[str, typer.Option(help="Languages of source and target, as en-de or en-zh_Hans.")],
    tokenizer: TokenizerOption,
    out: DataDirOption,
    tsv: Annotated[bool, typer.Option("--tsv", help="One file with tab-separated columns.")] = False,
    columns: Annotated[str, typer.Option(help="The TSV's columns; - is ignored.")] = "score,source,target",
    min_score: Annotated[float | None, typer.Option(help="Drop TSV pairs that score lower.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Drop pairs with a longer side, in tokens.")] = 254,
    max_ratio: Annotated[float, typer.Option(help="Drop pairs whose token counts differ by more.")] = 9.0,
    keep_identical: Annotated[bool, typer.Option("--keep-identical", help="Keep pairs with equal sides.")] = False,
    workers: WorkersOption = 1,
    shard_bytes: ShardBytesOption = DEFAULT_SHARD_BYTES,
    max_bad_rate: BadRateOption = 0.0,
) -> None:
    """Binarize translation pairs: Moses' two files, or one TSV file as WikiMatrix has them.

    Example: python -m data_prep parallel train.en train.de --pair en-de --tokenizer xlmr --out data

    Example: python -m data_prep parallel WikiMatrix.de-en.tsv.gz --tsv --pair de-en --tokenizer xlmr --out data
    """
    languages = parse_pair(pair)
    if len(files) != (1 if tsv else 2):
        raise ValueError(f"{len(files)} files given: a Moses pair is two, SOURCE TARGET; --tsv takes one")
    if min_score is not None and not tsv:
        raise ValueError(f"--min-score {min_score}: only a TSV file has scores; add --tsv or leave it out")
    names = parse_columns(columns) if tsv else ()
    if min_score is not None and "score" not in names:
        raise ValueError(f"--min-score {min_score}: --columns {columns} has no score; name its column")
    settings = Settings(shard_bytes, names, PairFilters(max_tokens, max_ratio, keep_identical, min_score))
    source = Source("pair", languages, tuple(files))
    _finish(run_job([source], settings, tokenizer, out, workers, max_bad_rate), out)


def parse_language(code: str, option: str) -> str:
    """A language code with underscores between its parts; a hyphen is taken as one, and said so.

    Raises:
        ValueError: not two or three lower-case letters with optional subtags.
    """
    normal = code.replace("-", "_")
    if not LANGUAGE.fullmatch(normal):
        raise ValueError(f"{option} {code}: not a language code; two or three small letters, as de or zh_Hans")
    if normal != code:
        print(f"{option} {code}: taken as {normal}")
    return normal


def parse_pair(pair: str) -> tuple[str, str]:
    """Source and target language of `en-de`.

    Raises:
        ValueError: not exactly one hyphen, a wrong code, or the same language twice.
    """
    codes = pair.split("-")
    if len(codes) != 2:
        raise ValueError(f"--pair {pair}: needs one hyphen, between the languages; write subtags as en-es_LA")
    source, target = (parse_language(code, "--pair") for code in codes)
    if source == target:
        raise ValueError(f"--pair {pair}: the same language twice; name source and target")
    return source, target


def _finish(outcome: Outcome, data_dir: Path) -> None:
    for failure in outcome.failures:
        _print_error(failure)
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(outcome.dropped.items())) or "nothing"
    if outcome.made or outcome.skipped:
        print(
            f"{data_dir}: {outcome.made} shards made, {outcome.skipped} were there, {outcome.replaced} of other "
            f"settings removed; made: {outcome.documents:,} documents, {outcome.sequences:,} sequences, "
            f"{outcome.tokens:,} tokens; dropped: {dropped}"
        )
    if outcome.failures:
        raise typer.Exit(1)


@app.command()
def inspect(data_dir: DataDirArgument, as_json: JsonOption = False) -> None:
    """Show what a data folder holds, per language and language pair.

    Example: python -m data_prep inspect data --json
    """
    manifest = Manifest.load(data_dir)
    rows = _summary(manifest)
    if as_json:
        content = {"tokenizer_sha256": manifest.tokenizer_sha256, "vocab_size": manifest.vocab_size, "rows": rows}
        print(json.dumps({**content, "digest": manifest.digest()}, indent=2))
        return
    table = Table(title=f"{data_dir}, vocabulary {manifest.vocab_size:,}")
    for name in ("data", "documents", "sequences", "tokens", "longest", "shards"):
        table.add_column(name, justify="left" if name == "data" else "right", no_wrap=True)
    table.add_column("dropped")
    for row in rows:
        numbers = [f"{row[name]:,}" for name in ("documents", "sequences", "tokens", "max_length", "shards")]
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items())
        table.add_row(row["key"], *numbers, dropped)
    Console().print(table)


def _summary(manifest: Manifest) -> list[dict[str, Any]]:
    """One row per language and pair: sums over its shards, and what its sources dropped."""
    groups: dict[tuple[str, str], list[Shard]] = {}
    dropped: dict[tuple[str, str], Counter[str]] = {}
    for source in manifest.sources:
        group = (source["kind"], "-".join(source["languages"]))
        groups.setdefault(group, [])
        dropped.setdefault(group, Counter()).update(source["dropped"])
    for shard in manifest.shards:
        groups[shard.kind, shard.key].append(shard)
    return [
        {
            "kind": kind,
            "key": key,
            "documents": sum(shard.documents for shard in shards),
            "sequences": sum(shard.sequences for shard in shards),
            "tokens": sum(shard.tokens for shard in shards),
            "max_length": max((shard.max_length for shard in shards), default=0),
            "shards": len(shards),
            "dropped": dict(sorted(dropped[kind, key].items())),
        }
        for (kind, key), shards in sorted(groups.items())
    ]


@app.command()
def verify(data_dir: DataDirArgument) -> None:
    """Read every byte of a data folder again: hashes, boundaries, ids. One line per problem, exit code 1 on any.

    Example: python -m data_prep verify data
    """
    problems = 0
    for problem in find_problems(data_dir):
        _print_error(problem)
        problems += 1
    if problems:
        raise typer.Exit(1)
    print(f"{data_dir}: {len(Manifest.load(data_dir).shards)} shards, all as written")


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Chooses the words and what is said.")] = 0,
) -> None:
    """Write a small generated corpus of several languages with known word alignments.

    Example: python -m data_prep sample --out sample --seed 1
    """
    print(json.dumps(write_sample(out, seed), indent=2))


def _print_error(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and give its exit code: 0, 1 (an error, one line), 2 (wrong usage, one line), 130 (interrupted)."""
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
