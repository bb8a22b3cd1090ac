"""Tagged sentences: a token and its tag a line (CoNLL, XTREME's udpos and panx), or `word/TAG` with a sentence a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.finetune.files.inputs import read_lines

CONLLU_COLUMNS, UPOS = 10, 4
UNKNOWN = "_"
"""What CoNLL-U has where a column has nothing to say."""
DOCUMENT_MARK = "-DOCSTART-"


@dataclass(frozen=True)
class Sentence:
    """Words and, unless the file has none, their tags."""

    words: list[str]
    tags: list[str] | None


def read_tagged(path: Path, column: int | None = None) -> list[Sentence]:
    """Sentences of a file, `.upos`: `word/TAG word/TAG`, a sentence a line; `.conllu`: Universal Dependencies' ten columns,
    of which FORM and UPOS count; else `token<TAB>tag` or `token` a line.

    A blank line ends a sentence, so that two of them have a sentence without words between them.

    column: where the tag is, counted from 1, or from the last as -1: of CoNLL-U another than UPOS; or of a file with a word
        a line and more columns than two, apart by tabs or by spaces, of which the first is the word. Lines -DOCSTART- of
        CoNLL-2003 are left out with the blank line after them.

    Raises:
        ValueError: a line that is neither, or some words have tags and others none; names the line.
    """
    lines = read_lines(path)
    if path.suffix == ".conllu":
        return _read_conllu(path, lines, UPOS if column is None else column)
    if path.suffix == ".upos":
        if column is not None:
            raise ValueError(f"{path}: has word/TAG and no columns; leave --column out")
        return _read_slashed(path, lines)
    return _read_columns(path, lines if column is None else _cut(path, lines, column))


def _read_conllu(path: Path, lines: list[str], column: int) -> list[Sentence]:
    """The syntactic words, as Universal Dependencies counts them: not the range 1-2 of a contraction, nor an empty node 1.1."""
    place = column if column > 0 else CONLLU_COLUMNS + 1 + column
    if not 3 <= place <= CONLLU_COLUMNS:
        raise ValueError(f"--column {column}: CoNLL-U has {CONLLU_COLUMNS}; give one from 3 on, such as 5 for XPOS")
    columns, numbers = [], []
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if line.startswith("#"):
            continue
        if line.strip() and (len(fields) != CONLLU_COLUMNS or not fields[1]):
            raise ValueError(
                f"{path}: line {number}: {line!r} has not the {CONLLU_COLUMNS} columns of CoNLL-U, tabs apart"
            )
        if not line.strip():
            columns.append("")
            numbers.append(number)
        elif fields[0].isdecimal():
            tag = fields[place - 1]
            columns.append(fields[1] if tag == UNKNOWN else f"{fields[1]}\t{tag}")
            numbers.append(number)
    if not any(columns):
        raise ValueError(f"{path}: has no words")
    sentences = _read_columns(path, columns, numbers)
    if all(word == UNKNOWN for sentence in sentences for word in sentence.words):
        raise ValueError(
            f"{path}: all words are {UNKNOWN}: the treebank has no text for its licence; merge that into it"
        )
    return sentences


def _cut(path: Path, lines: list[str], column: int) -> list[str]:
    """Lines of many columns as lines of two; as many, but for those of -DOCSTART-."""
    if column in (0, 1):
        raise ValueError(f"--column {column}: the first column is the word; give 2 or more, or -1 for the last")
    cut: list[str] = []
    after_mark = False
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t") if "\t" in line else [field for field in line.split(" ") if field]
        mark = fields[:1] == [DOCUMENT_MARK]
        if not line.strip():
            cut += [] if after_mark else [""]
        elif not mark:
            if len(fields) < max(column, -column, 2):
                raise ValueError(
                    f"{path}: line {number}: {line!r} has {len(fields)} columns; --column {column} is not one"
                )
            cut.append(f"{fields[0]}\t{fields[column - 1 if column > 0 else column]}")
        after_mark = mark
    if not any(cut):
        raise ValueError(f"{path}: has no words")
    return cut


def _read_slashed(path: Path, lines: list[str]) -> list[Sentence]:
    sentences = []
    for number, line in enumerate(lines, start=1):
        words, tags = [], []
        for token in line.split(" ") if line.strip() else []:
            word, _, tag = token.rpartition("/")
            if not word or not tag:
                raise ValueError(f"{path}: line {number}: {token!r} is not word/TAG")
            words.append(word)
            tags.append(tag)
        sentences.append(Sentence(words, tags))
    return sentences


def _read_columns(path: Path, lines: list[str], numbers: list[int] | None = None) -> list[Sentence]:
    """Sentences of lines of one or two columns; numbers: theirs in the file, where other lines were left out."""
    sentences: list[Sentence] = []
    tagged = "\t" in next(line for line in lines if line.strip())
    words: list[str] = []
    tags: list[str] = []
    for number, line in zip([*(numbers or range(1, len(lines) + 1)), 0], [*lines, ""], strict=True):
        if not line.strip():
            sentences.append(Sentence(words, tags if tagged else None))
            words, tags = [], []
            continue
        columns = line.split("\t")
        if len(columns) > 2 or not all(columns):
            raise ValueError(f"{path}: line {number}: {line!r} is not a token, a tab and its tag")
        if (len(columns) == 2) != tagged:
            have = "has no tag, lines before have" if tagged else "has a tag, lines before have none"
            raise ValueError(f"{path}: line {number}: {line!r} {have}; give tags to all tokens or to none")
        words.append(columns[0])
        tags += columns[1:]
    return sentences
