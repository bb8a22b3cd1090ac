"""Manual word alignments: read them from a folder, and score links against them by AER (Och & Ney, 2003).

Knows words by their places only; nothing of tokens, models or how the links were found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

WordLink = tuple[int, int]
"""(source word, target word) of a pair, counted from 0."""

ALIGNV2, PHARAOH = "alignv2.txt", "pharaoh.txt"
_PHARAOH_LINK = re.compile(r"(\d+)([-p])(\d+)")


@dataclass(frozen=True)
class Gold:
    """Tokenised pairs with their manual links, one entry a pair."""

    source_language: str
    target_language: str
    source: list[list[str]]
    target: list[list[str]]
    sure: list[set[WordLink]]
    possible: list[set[WordLink]]
    """Holds the sure links too."""
    links_past_the_end: int
    """Links whose word does not exist. They count in the scores as any other, as they do in other scorers."""

    def __len__(self) -> int:
        return len(self.source)

    def first(self, pairs: int) -> Gold:
        """The first `pairs` pairs."""
        return self.part(slice(pairs))

    def part(self, pairs: slice) -> Gold:
        """These pairs alone."""
        sides = (self.source[pairs], self.target[pairs])
        sure, possible = self.sure[pairs], self.possible[pairs]
        past = _links_past_the_end(*sides, possible)
        return Gold(self.source_language, self.target_language, *sides, sure, possible, past)


@dataclass(frozen=True)
class AlignmentScore:
    """Scores over all links of a corpus at once (micro-averages), each within 0 and 1."""

    aer: float
    precision: float
    recall: float
    f1: float
    links: int
    """Links that were scored, |A|."""


def score_links(predicted: Sequence[Collection[WordLink]], gold: Gold) -> AlignmentScore:
    """Score one collection of links a pair. With S the sure and P ⊇ S the possible links:

    precision = |A∩P| / |A|, recall = |A∩S| / |S|, F1 their harmonic mean, AER = 1 - (|A∩S| + |A∩P|) / (|A| + |S|).
    No links at all have precision 0, and a gold without sure links recall 0.

    Raises:
        ValueError: not one entry a pair.
    """
    if len(predicted) != len(gold):
        raise ValueError(
            f"links of {len(predicted)} pairs, but the gold has {len(gold)}; give one entry a pair, in order"
        )
    links, in_sure, in_possible = 0, 0, 0
    for found, sure, possible in zip(map(set, predicted), gold.sure, gold.possible, strict=True):
        links += len(found)
        in_sure += len(found & sure)
        in_possible += len(found & possible)
    sure_links = sum(map(len, gold.sure))
    precision, recall = _ratio(in_possible, links), _ratio(in_sure, sure_links)
    return AlignmentScore(
        aer=1.0 - _ratio(in_sure + in_possible, links + sure_links),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        links=links,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def read_gold(folder: Path, source: str | None = None, target: str | None = None) -> Gold:
    """Read `test.<source>`, `test.<target>` (a pair a line, words apart by spaces) and their links from a folder.

    Links come from `alignv2.txt` (`pair source target [S|P]`, counted from 1, S where nothing is said), or without it
    from `pharaoh.txt` (a pair a line, `i-j` sure and `ipj` possible, counted from 0). Languages default to the folder's
    name, `en-cs`.

    Raises:
        ValueError: a file is missing or malformed; names file and line, the value and the mend.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one with test.<source>, test.<target> and gold links")
    source, target = _languages(folder, source, target)
    source_path, target_path = folder / f"test.{source}", folder / f"test.{target}"
    source_words, target_words = read_words(source_path), read_words(target_path)
    if len(source_words) != len(target_words):
        raise ValueError(
            f"{source_path}: {len(source_words)} lines, {target_path} has {len(target_words)}; "
            "line n of one must be the translation of line n of the other"
        )
    if (folder / ALIGNV2).is_file():
        sure, possible = _read_alignv2(folder / ALIGNV2, len(source_words))
    elif (folder / PHARAOH).is_file():
        sure, possible = _read_pharaoh(folder / PHARAOH, len(source_words))
    else:
        raise ValueError(f"{folder}: has neither {ALIGNV2} nor {PHARAOH}; add the gold links in one of these formats")
    past = _links_past_the_end(source_words, target_words, possible)
    return Gold(source, target, source_words, target_words, sure, possible, past)


def read_words(path: Path) -> list[list[str]]:
    """The words of every line: UTF-8, lines end at `\\n` only, words are apart by ASCII white space.

    Raises:
        ValueError: no such file, or invalid UTF-8; names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a text file with a tokenised sentence a line")
    lines = path.read_bytes().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    words = []
    for number, line in enumerate(lines, start=1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: byte 0x{line[error.start]:02x} at {error.start} is not UTF-8; convert the file"
            ) from None
        words.append([word.decode() for word in line.split()])
    return words


def _languages(folder: Path, source: str | None, target: str | None) -> tuple[str, str]:
    if source and target:
        return source, target
    if source or target:
        raise ValueError(f"{folder}: one language was given, {source or target!r}; give source and target, or neither")
    parts = folder.resolve().name.split("-")
    for cut in range(1, len(parts)):
        source, target = "-".join(parts[:cut]), "-".join(parts[cut:])
        if (folder / f"test.{source}").is_file() and (folder / f"test.{target}").is_file():
            return source, target
    present = ", ".join(sorted(path.name for path in folder.glob("test.*"))) or "none"
    raise ValueError(
        f"{folder}: no files test.<source> and test.<target> after the folder's name (test files here: {present}); "
        "name the folder <source>-<target>, or give both languages"
    )


def _read_alignv2(path: Path, pairs: int) -> tuple[list[set[WordLink]], list[set[WordLink]]]:
    sure: list[set[WordLink]] = [set() for _ in range(pairs)]
    possible: list[set[WordLink]] = [set() for _ in range(pairs)]

    def read(line: str) -> None:
        fields = line.split()
        if not fields:
            return
        label = fields[3] if len(fields) == 4 else "S"
        if len(fields) not in (3, 4) or label not in ("S", "P") or not all(map(str.isdecimal, fields[:3])):
            raise ValueError(f"{line!r} is not `pair source target [S|P]`; write three numbers and S or P")
        pair, i, j = map(int, fields[:3])
        if not 1 <= pair <= pairs:
            raise ValueError(f"pair {pair} is outside 1 to {pairs}, the lines of the test files; count from 1")
        if i < 1 or j < 1:
            raise ValueError(f"link {i} {j}: words count from 1; leave words without a link out")
        possible[pair - 1].add((i - 1, j - 1))
        if label == "S":
            sure[pair - 1].add((i - 1, j - 1))

    _each_line(path, read)
    return sure, possible


def _read_pharaoh(path: Path, pairs: int) -> tuple[list[set[WordLink]], list[set[WordLink]]]:
    sure: list[set[WordLink]] = []
    possible: list[set[WordLink]] = []

    def read(line: str) -> None:
        sure_of_pair, possible_of_pair = parse_pharaoh(line)
        sure.append(sure_of_pair)
        possible.append(possible_of_pair)

    _each_line(path, read)
    if len(sure) != pairs:
        raise ValueError(f"{path}: {len(sure)} lines, but {pairs} pairs; write a line a pair, empty without links")
    return sure, possible


def parse_pharaoh(line: str) -> tuple[set[WordLink], set[WordLink]]:
    """(sure, possible ⊇ sure) links of a pair from `i-j ipj …`; ValueError names what is no link."""
    sure: set[WordLink] = set()
    possible: set[WordLink] = set()
    for text in line.split():
        match = _PHARAOH_LINK.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a link; write `i-j` for a sure and `ipj` for a possible one, from 0")
        link = (int(match[1]), int(match[3]))
        possible.add(link)
        if match[2] == "-":
            sure.add(link)
    return sure, possible


def _each_line(path: Path, read: Callable[[str], None]) -> None:
    for number, words in enumerate(read_words(path), start=1):
        try:
            read(" ".join(words))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None


def _links_past_the_end(source: list[list[str]], target: list[list[str]], possible: list[set[WordLink]]) -> int:
    return sum(
        i >= len(source_words) or j >= len(target_words)
        for source_words, target_words, links in zip(source, target, possible, strict=True)
        for i, j in links
    )
