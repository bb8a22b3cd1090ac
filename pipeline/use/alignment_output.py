"""How links are written: a line a pair, whatever is in it. Knows links and words; nothing of how links were found."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from pipeline.use.sentence_pairs import SEPARATOR, WordPair

if TYPE_CHECKING:
    from pipeline.use.word_alignment import ScoredLinks


def format_links(links: ScoredLinks, words: WordPair | None, scores: bool) -> str:
    """`i-j i-j …`, with scores `i-j:score`; or given the words, `source target` pairs (and score) a tab apart."""
    if words is None:
        return " ".join(f"{i}-{j}:{score:.4f}" if scores else f"{i}-{j}" for (i, j), score in links.items())
    source, target = words
    return "\t".join(
        f"{source[i]} {target[j]} {score:.4f}" if scores else f"{source[i]} {target[j]}"
        for (i, j), score in links.items()
    )


class Remembered:
    """Pairs on their way to the aligner, which reads ahead; kept until their links come out, if they are asked for."""

    def __init__(self, pairs: Iterable[WordPair], keep: bool, split: TextIO | None = None) -> None:
        """split: gets every pair as a line `source ||| target`."""
        self._pairs, self._keep, self._split = pairs, keep, split
        self._ahead: deque[WordPair] = deque()

    def __iter__(self) -> Iterator[WordPair]:
        for source, target in self._pairs:
            if self._split is not None:
                print(" ".join([*source, SEPARATOR, *target]) if source or target else "", file=self._split)
            if self._keep:
                self._ahead.append((source, target))
            yield source, target

    def take(self) -> WordPair | None:
        """The words of the pair whose links came out; None where they are not kept."""
        return self._ahead.popleft() if self._keep else None
