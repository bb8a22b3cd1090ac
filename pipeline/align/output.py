"""How links are written, pair by pair, and what is said at the end. Knows links and words; nothing of how links were found."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.texts.sentence_pairs import SEPARATOR, BadLines, WordPair

if TYPE_CHECKING:
    from pipeline.align.aligner import Aligner
    from pipeline.align.link_files import WordLink
    from pipeline.align.word_alignment import ScoredLinks, WordLinks


FORMATS = ("pharaoh", "talp", "naacl", "json", "tsv")
NO_BREAK = "\u00a0"
"""Stands in `source ||| target` lines for a space within a word, which words of CoNLL-U may have: it ends none."""
WITH_UNLINKED = ("naacl", "json", "tsv")
"""Formats that can say of a word that it has no link."""
_TSV_HEAD = ("pair", "source_place", "target_place", "source", "target", "score")
Links = Mapping["WordLink", float]


@dataclass
class Writing:
    """How links are written. ValueError where what is asked for does not go together.

    pharaoh: `i-j i-j`, a pair a line, words from 0. talp: the same, words from 1. naacl: `pair source target S`, a link a line,
    all from 1. json: an object a line with words, links and scores. tsv: a head, and a row a link with words and score.
    """

    format: str = "pharaoh"
    scores: bool = False
    """In pharaoh and talp as `i-j:score`, in naacl as a fifth column; json and tsv always have them."""
    words: bool = False
    """`source target` words in place of a pair's numbers, a tab apart; with scores a third field."""
    unlinked: bool = False
    """Words without links too: 0 in naacl, lists in json, empty fields in tsv."""
    least: float | None = None
    """Links with a lower score are left out."""
    sure: float | None = None
    """Links with a lower score are possible: `ipj`, P."""
    left_out: int = field(default=0, init=False)
    """Links that were left out so far."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"--format {self.format}: choose {', '.join(FORMATS)}")
        if self.words and self.format != "pharaoh":
            raise ValueError(f"--words --format {self.format}: words take the place of numbers; give one of the two")
        if self.unlinked and self.format not in WITH_UNLINKED:
            raise ValueError(
                f"--null: {'words have' if self.words else f'{self.format} has'} no form for a word without links; give "
                f"--format {' or '.join(WITH_UNLINKED)}"
            )
        if self.sure is not None and (self.words or self.format in ("json", "tsv")):
            raise ValueError(
                "--sure-score: sure and possible links are told apart by --format pharaoh, talp or naacl alone"
            )
        for name, score in (("--min-score", self.least), ("--sure-score", self.sure)):
            if score is not None and not -1 <= score <= 1:
                raise ValueError(f"{name} {score:g}: a score is a cosine; give one from -1 to 1")

    @property
    def needs_scores(self) -> bool:
        """Whether links must come with scores."""
        return self.scores or self.format in ("json", "tsv") or self.least is not None or self.sure is not None

    @property
    def needs_words(self) -> bool:
        """Whether links must come with the words of their pair."""
        return self.words or self.unlinked or self.format in ("json", "tsv")

    @property
    def head(self) -> str:
        """What stands before all links."""
        return "\t".join(_TSV_HEAD) + "\n" if self.format == "tsv" else ""

    def text(self, number: int, found: WordLinks | ScoredLinks, words: WordPair | None) -> str:
        """The lines of a pair, its number from 1; `found` with scores and `words` where they are needed."""
        links = dict.fromkeys(found, 0.0) if isinstance(found, list) else found
        if self.least is not None:
            kept = {link: score for link, score in links.items() if score >= self.least}
            self.left_out += len(links) - len(kept)
            links = kept
        if words is not None and self.words:
            return "\t".join(" ".join(named) for named in self._named(links, words)) + "\n"
        if self.format == "naacl":
            return self._naacl(number, links, words)
        if words is not None and self.format == "json":
            return self._json(links, words)
        if words is not None and self.format == "tsv":
            return self._tsv(number, links, words)
        first = int(self.format == "talp")
        marks = ("p" if self.is_possible(score) else "-" for score in links.values())
        numbers = [f"{i + first}{mark}{j + first}" for (i, j), mark in zip(links, marks, strict=True)]
        return (
            " ".join(numbers if not self.scores else map(":".join, zip(numbers, self._shown(links), strict=True)))
            + "\n"
        )

    def is_possible(self, score: float) -> bool:
        """Whether a link with this score is no sure one."""
        return self.sure is not None and score < self.sure

    def _shown(self, links: Links) -> list[str]:
        return [f"{score:.4f}" for score in links.values()]

    def _named(self, links: Links, words: WordPair) -> Iterator[tuple[str, ...]]:
        for (i, j), score in zip(links, self._shown(links), strict=True):
            yield (words[0][i], words[1][j], score) if self.scores else (words[0][i], words[1][j])

    def _naacl(self, number: int, links: Links, words: WordPair | None) -> str:
        lines = []
        for ((i, j), value), score in zip(links.items(), self._shown(links), strict=True):
            lines.append(f"{number} {i + 1} {j + 1} {'P' if self.is_possible(value) else 'S'}")
            lines[-1] += f" {score}" if self.scores else ""
        if words is not None:
            sources, targets = unlinked_words(links, words)
            lines += [f"{number} {i + 1} 0" for i in sources] + [f"{number} 0 {j + 1}" for j in targets]
        return "".join(f"{line}\n" for line in lines)

    def _json(self, links: Links, words: WordPair) -> str:
        record: dict[str, Any] = {"source": words[0], "target": words[1], "links": list(links)}
        record["scores"] = [round(score, 4) for score in links.values()]
        if self.unlinked:
            record["unlinked_source"], record["unlinked_target"] = unlinked_words(links, words)
        return json.dumps(record, ensure_ascii=False) + "\n"

    def _tsv(self, number: int, links: Links, words: WordPair) -> str:
        rows = [
            (str(i), str(j), words[0][i], words[1][j], score)
            for (i, j), score in zip(links, self._shown(links), strict=True)
        ]
        if self.unlinked:
            sources, targets = unlinked_words(links, words)
            rows += [(str(i), "", words[0][i], "", "") for i in sources]
            rows += [("", str(j), "", words[1][j], "") for j in targets]
        return "".join("\t".join((str(number), *row)) + "\n" for row in rows)


def unlinked_words(links: Iterable[WordLink], words: WordPair) -> tuple[list[int], list[int]]:
    """The places, from 0, of source and of target words without links."""
    linked = {i for i, _ in links}, {j for _, j in links}
    sources, targets = ([at for at in range(len(side)) if at not in of] for side, of in zip(words, linked, strict=True))
    return sources, targets


class Remembered:
    """Pairs on their way to the aligner, which reads ahead; kept until their links come out, if they are asked for."""

    def __init__(self, pairs: Iterable[WordPair | None], keep: bool, split: TextIO | None = None) -> None:
        """pairs: None among them, where nothing more is there yet, is passed on; split: gets every pair as a line
        `source ||| target`."""
        self._pairs, self._keep, self._split = pairs, keep, split
        self._ahead: deque[WordPair] = deque()

    def __iter__(self) -> Iterator[WordPair | None]:
        for pair in self._pairs:
            if pair is None:
                yield None
                continue
            source, target = pair
            if self._split is not None:
                kept = (NO_BREAK.join(word.split(" ")) for word in (*source, SEPARATOR, *target))  # numbers count words
                print(" ".join(kept) if source or target else "", file=self._split)
            if self._keep:
                self._ahead.append((source, target))
            yield source, target

    def take(self) -> WordPair | None:
        """The words of the pair whose links came out; None where they are not kept."""
        return self._ahead.popleft() if self._keep else None


def closing_line(aligner: Aligner, bad: BadLines, writing: Writing) -> str:
    """What was aligned, how, and what of it was not as others; only what there was."""
    report = aligner.report
    parts = [f"{_count(report.pairs, 'pair')} aligned: {aligner.options.describe()}, on {aligner.device_name}"]
    if empty := report.empty_pairs - bad.count:
        parts.append(f"{empty:,} of them with an empty side, and so without links")
    if report.long_pairs:
        parts.append(f"{report.long_pairs:,} too long for the model, aligned in {report.windows:,} overlapping parts")
    if report.non_finite_pairs:
        parts.append(f"{report.non_finite_pairs:,} without links, as their similarities are not finite numbers")
    if writing.left_out:
        parts.append(f"{_count(writing.left_out, 'link')} below --min-score {writing.least:g} left out")
    if bad.count:
        parts.append(f"{_count(bad.count, 'line')} could not be used and so without links, the first: {bad.first}")
    return "; ".join(parts)


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
