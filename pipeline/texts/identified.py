"""Monolingual sentences with an id each, as BUCC's are, and gold pairs of such ids.

Knows lines and tabs; nothing of what is done with the sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.texts.lines import read_lines

FORM = "an id, a tab and a sentence a line, or a sentence a line"


@dataclass(frozen=True)
class Identified:
    """The sentences of a file, in its order."""

    path: Path
    ids: list[str]
    """Those of the file, or the numbers of its lines from 1."""
    texts: list[str]
    numbered: bool
    """Whether the file has no ids, so that the lines' numbers stand for them."""


def read_identified(path: Path) -> Identified:
    """A file with an id, a tab and a sentence a line; or, where its first line has no tab, with a sentence a line.

    Tabs within a sentence become spaces.

    Raises:
        ValueError: the file is missing, empty or no UTF-8, or some of its lines have an id and others none, or two have one.
    """
    lines = read_lines(path, FORM)
    if not lines:
        raise ValueError(f"{path}: is empty; give {FORM}")
    numbered = "\t" not in lines[0]
    ids, texts = [], []
    for number, line in enumerate(lines, start=1):
        own, tab, text = line.partition("\t")
        if bool(tab) == numbered:
            raise ValueError(
                f"{path}:{number}: has {'a' if tab else 'no'} tab, unlike the first line; give an id, a tab and a sentence on "
                "every line, or no tab at all"
            )
        ids.append(str(number) if numbered else own)
        texts.append(line if numbered else text.replace("\t", " "))
    seen: dict[str, int] = {}
    for number, own in enumerate(ids, start=1):
        if (before := seen.setdefault(own, number)) != number:
            raise ValueError(f"{path}:{number}: has the id {own!r} of line {before}; each sentence needs its own")
    return Identified(path, ids, texts, numbered)


def read_gold_pairs(path: Path, source: Identified, target: Identified) -> set[tuple[str, str]]:
    """A file's pairs of ids, a pair a line with a tab between them.

    Raises:
        ValueError: a line is no such pair, or an id is not among the sentences; names the line.
    """
    lines = read_lines(path, "a source id, a tab and a target id a line")
    known: Mapping[int, tuple[Path, set[str]]] = {
        side: (of_side.path, set(of_side.ids)) for side, of_side in enumerate((source, target))
    }
    pairs = set()
    for number, line in enumerate(lines, start=1):
        both = line.split("\t")
        if len(both) != 2:
            raise ValueError(f"{path}:{number}: is {line!r}; give a source id, a tab and a target id")
        for side, own in enumerate(both):
            where, ids = known[side]
            if own not in ids:
                turned = " (TARGET has it: the pairs may be the other way round)" if own in known[1 - side][1] else ""
                raise ValueError(f"{path}:{number}: {where} has no id {own!r}{turned if side == 0 else ''}; correct it")
        pairs.add((both[0], both[1]))
    if not pairs:
        raise ValueError(f"{path}: is empty; give a source id, a tab and a target id a line")
    return pairs
