"""How links are written, a line a pair, whatever is in it, and what is said at the end. Knows links and words; nothing of how
links were found."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from pipeline.texts.sentence_pairs import SEPARATOR, BadLines, WordPair

if TYPE_CHECKING:
    from pipeline.align.aligner import Aligner
    from pipeline.align.word_alignment import ScoredLinks, WordLinks


def format_links(links: WordLinks | ScoredLinks, words: WordPair | None) -> str:
    """`i-j i-j …`, scored links `i-j:score`; or given the words, `source target` pairs (and score) a tab apart."""
    scores = [f"{score:.4f}" for score in links.values()] if isinstance(links, dict) else None
    if words is None:
        numbers = [f"{i}-{j}" for i, j in links]
        return " ".join(numbers if scores is None else map(":".join, zip(numbers, scores, strict=True)))
    source, target = words
    named = [f"{source[i]} {target[j]}" for i, j in links]
    return "\t".join(named if scores is None else map(" ".join, zip(named, scores, strict=True)))


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
                print(" ".join([*source, SEPARATOR, *target]) if source or target else "", file=self._split)
            if self._keep:
                self._ahead.append((source, target))
            yield source, target

    def take(self) -> WordPair | None:
        """The words of the pair whose links came out; None where they are not kept."""
        return self._ahead.popleft() if self._keep else None


def closing_line(aligner: Aligner, bad: BadLines) -> str:
    """What was aligned, how, and what of it was not as others; only what there was."""
    report = aligner.report
    parts = [f"{_count(report.pairs, 'pair')} aligned: {aligner.options.describe()}, on {aligner.device_name}"]
    if empty := report.empty_pairs - bad.count:
        parts.append(f"{empty:,} of them with an empty side, and so without links")
    if report.long_pairs:
        parts.append(f"{report.long_pairs:,} too long for the model, aligned in {report.windows:,} overlapping parts")
    if report.non_finite_pairs:
        parts.append(f"{report.non_finite_pairs:,} without links, as their similarities are not finite numbers")
    if bad.count:
        parts.append(f"{_count(bad.count, 'line')} could not be used and so without links, the first: {bad.first}")
    return "; ".join(parts)


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
