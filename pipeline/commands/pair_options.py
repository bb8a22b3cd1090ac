"""Options of `align`: what is read, and how links are written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SourceText = Annotated[
    Path,
    typer.Argument(
        help="text, one sentence a line, or .conllu; alone: lines of `source ||| target`, a .tsv of two columns, .jsonl or "
        ".tmx; -: stdin. Plain, .gz, .xz, .zst or .bz2"
    ),
]
TargetText = Annotated[Path | None, typer.Argument(help="its translations, line by line")]
RawOption = Annotated[
    bool, typer.Option("--raw", help="text that is not tokenised: split words and punctuation apart first")
]
FieldsOption = Annotated[
    str | None,
    typer.Option(
        help="SOURCE,TARGET: of .jsonl the names of the two sides (translation.en: the field en of translation), default "
        "source,target or src,tgt; of .tmx the languages, en,de",
        show_default=False,
    ),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        help="pharaoh: i-j, from 0; talp: i-j, from 1; naacl: pair, i, j and S, a link a line, from 1; json: an object a pair; "
        "tsv: a row a link, with words and score",
    ),
]
ScoresOption = Annotated[
    bool, typer.Option("--scores", help="print i-j:score; the score is the cosine of the hidden states, at most 1")
]
WordsOption = Annotated[
    bool, typer.Option("--words", help="print words in place of numbers: `source target`, links a tab apart")
]
NullOption = Annotated[
    bool, typer.Option("--null", help="of --format naacl, json and tsv: print the words without links, too")
]
MinScoreOption = Annotated[
    float | None, typer.Option(help="leave out links with a lower score, a cosine", show_default=False)
]
SureScoreOption = Annotated[
    float | None,
    typer.Option(help="print links with a lower score as possible: ipj, and P in naacl", show_default=False),
]
SplitOption = Annotated[
    Path | None, typer.Option(help="write the words that the numbers count there, as `source ||| target` lines")
]
MaxBadRateOption = Annotated[
    float,
    typer.Option(help="share of lines that may be unusable: their links are an empty line; 0: fail at the first"),
]
KeepSpacePiecesOption = Annotated[
    bool, typer.Option("--keep-space-pieces", help="count a word's lone space piece, as the released aligner does")
]
WindowOption = Annotated[
    int, typer.Option(help="tokens of each part in which a sentence too long for the model is aligned")
]


def fields_of(text: str | None) -> tuple[str, str] | None:
    """What `FieldsOption` names; ValueError where these are not two."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise ValueError(f"--fields {text}: give two names with a comma between, as in en,de")
    return names[0], names[1]
