"""Labels of source words carried over links to target words: a tag for each word, or spans.

Knows labels, words and links by their places only; nothing of files, models or how the links were found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.align.link_files import WordLink

Span = tuple[str, int, int]
"""Type, first word, last word."""
Links = Mapping[WordLink, float]
"""Links of a pair with their scores; where there are none, all are equal."""

OUTSIDE = "O"
BRIDGED = 1
"""Words of a gap in a span that is closed although they are linked elsewhere: the default of Easy-Label-Projection for names
(García-Ferrero et al., 2022)."""


@dataclass(frozen=True)
class Projected:
    """The target's labels, and what the links did not carry."""

    labels: list[str]
    unlinked: list[bool]
    """For every target word whether no source word with a label is linked to it."""
    lost: int = 0
    """Source spans that have no target span: no word of theirs is linked, or none to a word that another span does not have."""
    cut: int = 0
    """Source spans with a target span that leaves linked words out, because they lie apart or belong to another span."""


def project_tags(tags: Sequence[str], links: Links, words: int, unlinked: str) -> Projected:
    """A tag for each of `words` target words: that of the source word linked to it.

    Of several linked source words the one with the highest score counts; where scores are equal, the most frequent tag among
    these, and at last the first word's. A target word without links gets `unlinked`.
    """
    linked: list[list[tuple[int, float]]] = [[] for _ in range(words)]
    for (source, target), score in sorted(links.items()):
        linked[target].append((source, score))
    labels = [_best_tag(tags, sources) if sources else unlinked for sources in linked]
    return Projected(labels, [not sources for sources in linked])


def _best_tag(tags: Sequence[str], sources: Sequence[tuple[int, float]]) -> str:
    best = max(score for _, score in sources)
    # of equal counts, Counter gives the one that was met first
    return Counter(tags[source] for source, score in sources if score == best).most_common(1)[0][0]


def project_spans(spans: Sequence[Span], links: Links, words: int) -> Projected:
    """BIO labels of `words` target words, a contiguous span for every source span that has links.

    A target word that several spans are linked to belongs to the one with the highest score there; then to the one with
    more links to it, then to the first. The span takes its words from the first to the last, and with them the gaps
    between that hold unlinked words alone, or a single word that no span has. Where another gap is left, the longest of the
    parts is the span; of equal ones the one with more linked words, then the first. So target spans never overlap.
    """
    span_of = {word: number for number, (_, first, last) in enumerate(spans) for word in range(first, last + 1)}
    claims: list[dict[int, tuple[float, int]]] = [{} for _ in range(words)]  # target word → span → best score, links
    linked = [False] * words
    for (source, target), score in links.items():
        linked[target] = True
        if source in span_of:
            best, count = claims[target].get(span_of[source], (score, 0))
            claims[target][span_of[source]] = max(best, score), count + 1
    owners = [max(of, key=lambda number: (of[number], -number)) if of else None for of in claims]
    labels = [OUTSIDE] * words
    lost = cut = 0
    for number, (kind, _, _) in enumerate(spans):
        claimed = [word for word in range(words) if number in claims[word]]
        own = [word for word in claimed if owners[word] == number]
        kept = _longest(_parts(own, owners, linked))
        lost += not kept
        cut += bool(kept) and any(word not in kept for word in claimed)
        for word in kept:
            labels[word] = f"{'B' if word == kept.start else 'I'}-{kind}"
    return Projected(labels, [owner is None for owner in owners], lost, cut)


def _parts(own: Sequence[int], owners: Sequence[int | None], linked: Sequence[bool]) -> list[tuple[range, int]]:
    """A span's words as runs from a first to a last word, gaps closed, each with its number of linked words."""
    parts: list[tuple[range, int]] = []
    for word in own:
        if parts:
            run, count = parts[-1]
            gap = range(run.stop, word)
            free = all(owners[between] is None for between in gap)
            if free and (len(gap) <= BRIDGED or not any(linked[between] for between in gap)):
                parts[-1] = range(run.start, word + 1), count + 1
                continue
        parts.append((range(word, word + 1), 1))
    return parts


def _longest(parts: Sequence[tuple[range, int]]) -> range:
    """The longest run, empty where there is none."""
    return max(parts, key=lambda part: (len(part[0]), part[1]), default=(range(0), 0))[
        0
    ]  # max takes the first of equals


def are_spans(tags: Sequence[str]) -> bool:
    """Whether labels mark spans (B-PER, I-PER, O; IOBES too) and are not a tag for each word."""
    marked = [tag for tag in tags if tag != OUTSIDE]
    return bool(marked) and all(tag[:2] in ("B-", "I-", "E-", "S-") and tag[2:] for tag in marked)
