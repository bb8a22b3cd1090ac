"""Files of word links as people have them: Pharaoh and Talp, a pair a line, and NAACL's, a link a line.

Reads what aligners write and what annotators publish, and says what it had to assume. Knows words by their places only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.texts.lines import Lines, decoded, name_of, read_lines

WordLink = tuple[int, int]
"""(source word, target word) of a pair, counted from 0."""
Lengths = Sequence[tuple[int, int]]
"""Words of source and target, of every pair."""

NAACL_NAMES = ("alignv2.txt", ".naacl")
"""Ends of file names that tell the format; of others the first line does."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_PHARAOH = re.compile(rf"(-?\d+)([-sSpP?x])(-?\d+)(?:[:/]({_NUMBER}))?")
_NAACL = re.compile(rf"(-?\d+)\s+(-?\d+)\s+(-?\d+)(?:\s+([SPsp]))?(?:\s+({_NUMBER}))?")
_NUMBERED = re.compile(r"(\d+)\t")
_SURE = ("-", "S", "s", None)
_ENOUGH_LINKS = 20
"""Links from which on a file is suspected to count words from 1: one that has no word 0 and cannot be compared with its
sentences, or one that names the word after the last in most of them."""


@dataclass
class LinkFile:
    """The links of every pair; possible ones hold the sure ones too. Links may lie outside their sentence."""

    sure: list[set[WordLink]]
    possible: list[set[WordLink]]
    scored: list[dict[WordLink, float]]
    """The possible links with their scores (the highest of a link said twice), 0 where the file has none; sorted."""
    line_a_pair: bool = True
    """Whether the file's lines tell how many pairs there are; else the last ones may be missing."""
    notes: list[str] = field(default_factory=list)
    """What was assumed or left out, a sentence each."""


@dataclass(frozen=True)
class _Link:
    line: int
    pair: int
    """Number as it stands in the file, or the line's place from 0."""
    source: int
    target: int
    sure: bool
    score: float = 0.0


def read_links(
    path: Path,
    pairs: int | None = None,
    *,
    from_one: bool | None = None,
    lengths: Lengths | None = None,
    texts: str = "the test files",
) -> LinkFile:
    """Read a file of links, sure and possible.

    A pair a line, `i-j` (or `isj`) sure and `ipj` (or `i?j`, `ixj`) possible, words from 0 (Pharaoh, Talp; a score after a
    colon and a pair's number before a tab may stand there too); or a link a line, `pair source target [S|P] [confidence]`,
    words from 1 and 0 for none (NAACL, alignv2.txt).

    Args:
        pairs: how many there are; None: as many as the file has (lines, or up to the largest number).
        from_one: words count from 1 (or, False, from 0) whatever is usual for the format; None: as usual, or as the
            sentences' lengths leave no doubt.
        lengths: of the sentences, where they are known.
        texts: what `pairs` is the number of lines of, for errors.

    Raises:
        ValueError: a line is neither, or the pairs' numbers fit no lines; names file and line, and both counts.
    """
    lines = read_lines(path, "a file of word links")
    first = next((line for line in lines if line.strip()), "")
    naacl = path.name.endswith(NAACL_NAMES) or bool(_NAACL.fullmatch(first.strip()))
    numbered = not naacl and bool(_NUMBERED.match(first))
    links, numbers = _naacl_links(path, lines) if naacl else _pharaoh_links(path, lines, numbered)
    notes: list[str] = []
    if naacl or numbered:
        place = _places(path, numbers, pairs, texts, notes)
        count = pairs if pairs is not None else max(place.values(), default=-1) + 1
    else:
        place, count = {number: number for number in numbers}, len(lines) if pairs is None else pairs
        if len(lines) != count:
            raise ValueError(
                f"{path}: {len(lines)} lines, but {count} pairs in {texts}; write a line a pair, empty without links"
            )
    first_word = _first_word(links, place, naacl, from_one, lengths, notes)
    return _collect(links, place, count, first_word, notes, not (naacl or numbered))


def parse_pharaoh(line: str) -> tuple[set[WordLink], set[WordLink]]:
    """(sure, possible ⊇ sure) links of a pair from `i-j ipj …`, words from 0; ValueError names what is no link."""
    links = list(_links_of_line(line, 0, 0))
    return {(x.source, x.target) for x in links if x.sure}, {(x.source, x.target) for x in links}


def pharaoh_lines(path: Path) -> Iterator[set[WordLink]]:
    """The links of one pair after the other from a file or stdin with `i-j ipj …` lines, possible ones too.

    Words count from wherever the file has them count. Holds no more than a line.

    Raises:
        ValueError: the file cannot be read, or a line holds what is no link; names it.
    """
    with ExitStack() as files:
        for number, raw in enumerate(Lines(path).open(files), start=1):
            line = decoded(raw, path, number)
            try:
                yield parse_pharaoh(line)[1]
            except ValueError as error:
                raise ValueError(f"{name_of(path)}:{number}: {error}") from None


def _naacl_links(path: Path, lines: Sequence[str]) -> tuple[list[_Link], list[int]]:
    links = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _NAACL.fullmatch(line.strip())
        if match is None:
            raise ValueError(
                f"{path}:{number}: {line.strip()!r} is not `pair source target [S|P] [confidence]`; "
                "write three numbers, and S for a sure or P for a possible link"
            )
        links.append(
            _Link(number, int(match[1]), int(match[2]), int(match[3]), match[4] in _SURE, float(match[5] or 0))
        )
    return links, list(dict.fromkeys(link.pair for link in links))


def _pharaoh_links(path: Path, lines: Sequence[str], numbered: bool) -> tuple[list[_Link], list[int]]:
    links: list[_Link] = []
    numbers = []
    for number, line in enumerate(lines, start=1):
        pair, rest = number - 1, line
        if numbered:
            if not line.strip():
                continue
            match = _NUMBERED.match(line + "\t" if line.strip().isdecimal() else line)
            if match is None:
                raise ValueError(f"{path}:{number}: {line[:40]!r} has no number and tab before its links; add them")
            pair, rest = int(match[1]), line[match.end() :]
        numbers.append(pair)
        try:
            links += _links_of_line(rest, number, pair)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    if len(set(numbers)) != len(numbers):
        again = next(n for at, n in enumerate(numbers) if n in numbers[:at])
        raise ValueError(f"{path}: the pair {again} has two lines; give each a number of its own")
    return links, numbers


def _links_of_line(text: str, line: int, pair: int) -> Iterable[_Link]:
    for word in text.split():
        match = _PHARAOH.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is not a link; write `i-j` for a sure and `ipj` for a possible one")
        yield _Link(line, pair, int(match[1]), int(match[3]), match[2] in _SURE, float(match[4] or 0))


def _places(path: Path, numbers: Sequence[int], pairs: int | None, texts: str, notes: list[str]) -> dict[int, int]:
    """The place, from 0, of every pair number: the lines' own numbers, or where they are as many as lines, in order."""
    low, high = min(numbers, default=1), max(numbers, default=1)
    if pairs is None:
        pairs = high if low >= 1 else high + 1
    if low >= 1 and high <= pairs:
        return {number: number - 1 for number in numbers}
    if low == 0 and high < pairs:
        notes.append(f"{path.name} numbers the pairs from 0")
        return {number: number for number in numbers}
    if len(numbers) == pairs:
        notes.append(
            f"{path.name} numbers its {pairs:,} pairs from {low} to {high}, and {texts} have {pairs:,} lines: "
            "taken in the order in which they come"
        )
        return {number: place for place, number in enumerate(numbers)}
    raise ValueError(
        f"{path}: {len(numbers)} pairs, numbered from {low} to {high}, but {pairs} lines in {texts}; "
        "number the pairs as the lines (from 1), or give links to each line"
    )


def _first_word(
    links: Sequence[_Link],
    place: dict[int, int],
    naacl: bool,
    from_one: bool | None,
    lengths: Lengths | None,
    notes: list[str],
) -> int:
    """The number of a sentence's first word."""
    if from_one is not None:
        return int(from_one)
    words = [(link.source, link.target) for link in links]
    if lengths is not None:
        bounds = [lengths[place[link.pair]] for link in links]
        return _first_word_by_lengths([link.pair for link in links], words, bounds, naacl, notes)
    if not naacl and len(words) >= _ENOUGH_LINKS and all(i and j for i, j in words):
        notes.append("no link names word 0; if the file counts words from 1, say --from-one")
    return 1 if naacl else 0


def _first_word_by_lengths(
    pairs: Sequence[int], words: Sequence[WordLink], bounds: Sequence[tuple[int, int]], naacl: bool, notes: list[str]
) -> int:
    """As the links fit their sentences; a few may name words that there are in neither way of counting."""
    corner = sum(i == j == 0 for i, j in words)  # counted from 1, 0 is no word, and no word is not linked to none
    named_0 = any(i == 0 or j == 0 for i, j in words)
    reaching = [
        pair
        for pair, (i, j), (m, n) in zip(pairs, words, bounds, strict=True)
        if (i == m and 0 <= j <= n) or (j == n and 0 <= i <= m)
    ]
    if naacl and corner > len(reaching):
        notes.append("the links count words from 0: some link word 0 with word 0")
        return 0
    if not naacl and reaching and not named_0:
        notes.append("the links count words from 1: none names word 0, and some name the word after the last")
        return 1
    if not naacl and not corner and len(words) >= _ENOUGH_LINKS and 2 * len(set(reaching)) > len(set(pairs)):
        notes.append(
            "the links count words from 1, and 0 is no word: none links 0 with 0, and most pairs name the word after the last"
        )
        return 1
    return 1 if naacl else 0


def _collect(
    links: Sequence[_Link], place: dict[int, int], pairs: int, first_word: int, notes: list[str], line_a_pair: bool
) -> LinkFile:
    sure: list[set[WordLink]] = [set() for _ in range(pairs)]
    scored: list[dict[WordLink, float]] = [{} for _ in range(pairs)]
    null = repeated = 0
    for link in links:
        if first_word == 1 and 0 in (link.source, link.target):
            null += 1
            continue
        at, words = place[link.pair], (link.source - first_word, link.target - first_word)
        repeated += words in scored[at]
        scored[at][words] = max(scored[at].get(words, link.score), link.score)
        if link.sure:
            sure[at].add(words)
    if null:
        notes.append(f"{null:,} links to no word (0) are left out: they say that a word has no partner")
    if repeated:
        notes.append(f"{repeated:,} links stand there more than once and count once")
    possible = [set(of_pair) for of_pair in scored]
    return LinkFile(sure, possible, [dict(sorted(of_pair.items())) for of_pair in scored], line_a_pair, notes)
