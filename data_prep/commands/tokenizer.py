"""The commands of `python -m data_prep tokenizer`: train, import.

As in `binarize`, words become calls and results become words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from data_prep.plan.formats import DEFAULT_COLUMNS, Reading
from data_prep.run.tokenizer_training import train_on
from data_prep.run.training_text import training_sources
from data_prep.standard_output import DataCommand, put
from data_prep.tokenizers.hub import place_of
from data_prep.tokenizers.hub_tokenizer import tokenizer_place
from data_prep.tokenizers.tokenizer import MODEL_NAME, import_tokenizer

app = typer.Typer(help="Train or import a tokenizer.", no_args_is_help=True)


@app.command("train", cls=DataCommand)
def train_tokenizer(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Text (a sentence a line), TSV, TMX, zip, JSONL, CSV, Parquet, folders of them, or a mix's YAML."
        ),
    ],
    vocab_size: Annotated[int, typer.Option(help="SentencePiece pieces; the model's vocabulary is two larger.")],
    out: Annotated[Path, typer.Option(help="TOKENIZER_DIR to write.")],
    character_coverage: Annotated[float, typer.Option(help="Share of characters with a piece of their own.")] = 0.9995,
    format: Annotated[
        str, typer.Option(help="text, tsv, csv, zip, tmx, jsonl or parquet; auto: by the file's name and content.")
    ] = "auto",
    columns: Annotated[
        str, typer.Option(help="The TSV's columns; source and target are read.", show_default=DEFAULT_COLUMNS)
    ] = "",
    fields: Annotated[
        str,
        typer.Option(help="Comma-separated fields of records (text if not given), languages of TMX, members of zip."),
    ] = "",
    max_bad_rate: Annotated[float, typer.Option(help="Share of unusable lines to leave out; 0: fail.")] = 0.0,
) -> None:
    """Train a SentencePiece unigram model.

    The same files in the same order give the same model.
    Of a mix, what its filters on the text drop is left out; repeated text and other languages are not looked for.

    Example: python -m data_prep tokenizer train de.txt.xz en.txt.xz --vocab-size 32000 --out tokenizer

    Example: python -m data_prep tokenizer train memory.tmx --fields en,de --vocab-size 8000 --out tokenizer

    Example: python -m data_prep tokenizer train corpora.yaml --vocab-size 32000 --out tokenizer
    """
    if not 0 < character_coverage <= 1:
        raise ValueError(f"--character-coverage {character_coverage}: must be above 0 and at most 1; 0.9995 is usual")
    if not 0 <= max_bad_rate < 1:
        raise ValueError(f"--max-bad-rate {max_bad_rate}: must be from 0 to below 1; 0.001 is a line in a thousand")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    reading = Reading(format, columns, tuple(fields.split(",")) if fields else ())
    trained = train_on(training_sources(files, reading), vocab_size, character_coverage, max_bad_rate)
    trained.tokenizer.save(out)
    put(f"{out}: {vocab_size} pieces from {trained.lines:,} lines, vocabulary {trained.tokenizer.vocab_size}")
    if trained.left_out:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(trained.left_out.items()))
        put(f"lines left out: {reasons}")


@app.command("import", cls=DataCommand)
def import_tokenizer_command(
    model: Annotated[
        Path,
        typer.Argument(
            parser=place_of,
            help="A sentencepiece.bpe.model, a tokenizer.json, or a Hugging Face folder or a model of its hub with either.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="TOKENIZER_DIR to write.")],
) -> None:
    """Take over an existing SentencePiece model of XLM-R's kind, such as XLM-R's own.

    Example: python -m data_prep tokenizer import FacebookAI/xlm-roberta-base --out xlmr
    """
    tokenizer = import_tokenizer(tokenizer_place(model))
    tokenizer.save(out)
    put(f"{out}: {MODEL_NAME} sha256 {tokenizer.sha256}, vocabulary {tokenizer.vocab_size}")
