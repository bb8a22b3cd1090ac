"""Sentence pairs with a label: `sentence1<TAB>sentence2<TAB>label` a line, as XTREME stores XNLI and PAWS-X."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.finetune.files.inputs import read_lines


@dataclass(frozen=True)
class SentencePair:
    """Two sentences and, unless the file has none, their label."""

    first: str
    second: str
    label: str | None
    line: int


def read_pairs(path: Path) -> list[SentencePair]:
    """Pairs of a file; without a third column they have no label. Quotes are text, as in XTREME's own reader.

    Raises:
        ValueError: another number of columns, or some lines have a label and others none; names the line.
    """
    pairs: list[SentencePair] = []
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) not in (2, 3):
            raise ValueError(
                f"{path}: line {number} has {len(columns)} columns; give sentence1, sentence2 and label, tabs apart"
            )
        label = columns[2].strip() if len(columns) == 3 else None
        if label == "":
            raise ValueError(f"{path}: line {number} has an empty label; give one")
        if pairs and (label is None) != (pairs[0].label is None):
            has = "no label, line 1 has one" if label is None else "a label, line 1 has none"
            raise ValueError(f"{path}: line {number} has {has}; give labels to all lines or to none")
        pairs.append(SentencePair(columns[0], columns[1], label, number))
    return pairs
