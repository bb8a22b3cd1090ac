"""Manual word alignments: read them from a folder, and score links against them by AER (Och & Ney, 2003).

Knows words by their places only; nothing of tokens, models or how the links were found.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.align.link_files import WordLink, read_links
from pipeline.texts.lines import read_lines

ALIGNV2, PHARAOH = "alignv2.txt", "pharaoh.txt"
OTHER_SUFFIXES = (".talp", ".naacl", ".wa", ".pharaoh", ".align", ".gold")
"""Of the one file of gold links in a folder that has neither of those names."""


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
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What was assumed or left out in reading the links, a sentence each, for a user to see."""

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


class GoldLinks(Protocol):
    """What links are scored against: for each pair its sure links, and the possible ones, which hold them too."""

    @property
    def sure(self) -> Sequence[Collection[WordLink]]: ...
    @property
    def possible(self) -> Sequence[Collection[WordLink]]: ...


def score_links(predicted: Sequence[Collection[WordLink]], gold: GoldLinks) -> AlignmentScore:
    """Score one collection of links a pair. With S the sure and P ⊇ S the possible links:

    precision = |A∩P| / |A|, recall = |A∩S| / |S|, F1 their harmonic mean, AER = 1 - (|A∩S| + |A∩P|) / (|A| + |S|).
    No links at all have precision 0, and a gold without sure links recall 0.

    Raises:
        ValueError: not one entry a pair.
    """
    if len(predicted) != len(gold.sure):
        raise ValueError(
            f"links of {len(predicted)} pairs, but the gold has {len(gold.sure)}; give one entry a pair, in order"
        )
    links, in_sure, in_possible = 0, 0, 0
    for found, sure, possible in zip(map(set, predicted), gold.sure, gold.possible, strict=True):
        links += len(found)
        in_sure += len(found.intersection(sure))
        in_possible += len(found.intersection(possible))
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


def read_gold(folder: Path, source: str | None = None, target: str | None = None, from_one: bool | None = None) -> Gold:
    """Read `test.<source>`, `test.<target>` (a pair a line, words apart by spaces) and their links from a folder.

    Links come from `alignv2.txt`, or without it `pharaoh.txt`, or without both the one file with a suffix such as .talp or
    .naacl; its format is told by its content, see `link_files.read_links`, as is `from_one`. Languages default to the
    folder's name, `en-cs`.

    Raises:
        ValueError: a file is missing or malformed; names file and line, the value and what to do.
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
    path = links_file(folder)
    lengths = [(len(a), len(b)) for a, b in zip(source_words, target_words, strict=True)]
    texts = f"{source_path.name} and {target_path.name}"
    found = read_links(path, len(lengths), from_one=from_one, lengths=lengths, texts=texts)
    past = _links_past_the_end(source_words, target_words, found.possible)
    notes = found.notes + ([f"{past:,} links name words that their sentence does not have"] if past else [])
    said = tuple(f"{path}: {note}" for note in notes)
    return Gold(source, target, source_words, target_words, found.sure, found.possible, past, said)


def read_words(path: Path) -> list[list[str]]:
    """The words of every line, apart by ASCII white space. Raises as `read_lines` does."""
    lines = read_lines(path, "a text file with a tokenised sentence a line")
    return [[word.decode() for word in line.encode().split()] for line in lines]


def links_file(folder: Path) -> Path:
    """The file of gold links in a folder; ValueError where there is none, or no telling which."""
    for name in (ALIGNV2, PHARAOH):
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in OTHER_SUFFIXES)
    if len(others) != 1:
        found = f" (found {', '.join(path.name for path in others)})" if others else ""
        raise ValueError(
            f"{folder}: has neither {ALIGNV2} nor {PHARAOH}, nor one file of links *{', *'.join(OTHER_SUFFIXES)}{found}; "
            "add the gold links under one of these names"
        )
    return others[0]


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


def _links_past_the_end(source: list[list[str]], target: list[list[str]], possible: list[set[WordLink]]) -> int:
    return sum(
        not (0 <= i < len(source_words) and 0 <= j < len(target_words))
        for source_words, target_words, links in zip(source, target, possible, strict=True)
        for i, j in links
    )
