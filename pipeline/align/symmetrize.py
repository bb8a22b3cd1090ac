"""Two directed alignments of a pair made one, by the heuristics of statistical machine translation.

Och & Ney (2003) have the intersection and the union; Koehn, Och & Marcu (2003) and Koehn et al. (2005) grow the one towards the
other. Links of both directions are (source word, target word). Knows links by their places only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from pipeline.align.link_files import WordLink

Links = Collection[WordLink]
_BESIDE = ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Steps to a link's neighbours, in the order in which Moses looks at them: straight ones, then diagonal ones."""


def check_method(method: str) -> None:
    """ValueError for an unknown method."""
    if method not in METHODS:
        raise ValueError(f"--method {method}: choose {', '.join(METHODS)}")


def symmetrize(forward: Links, backward: Links, method: str) -> list[WordLink]:
    """The links that `method`, one of `METHODS`, makes of both directions, sorted.

    `intersect`: what both have. `union`: what either has.
    `grow-diag`: the intersection, and whatever of the union lies beside a link, diagonally too, and has a word without a link
        yet; until nothing is added. Links and their neighbours are looked at in order, by source, then by target word.
    `grow-diag-final`: and then the links of `forward`, then of `backward`, that have a word without a link yet.
    `grow-diag-final-and`: the same of links of which both words have none.

    Raises:
        ValueError: an unknown method.
    """
    check_method(method)
    return sorted(_RULES[method](set(forward), set(backward)))


class _Growing:
    """Links that become more, and the words that have one."""

    def __init__(self, links: Iterable[WordLink]) -> None:
        self.links: set[WordLink] = set()
        self._sources: set[int] = set()
        self._targets: set[int] = set()
        for link in links:
            self.add(link)

    def add(self, link: WordLink) -> None:
        self.links.add(link)
        self._sources.add(link[0])
        self._targets.add(link[1])

    def unlinked_words(self, link: WordLink) -> int:
        """How many of a link's two words, 0 to 2, have no link."""
        return (link[0] not in self._sources) + (link[1] not in self._targets)


def _grow_diag(forward: set[WordLink], backward: set[WordLink]) -> _Growing:
    growing, either = _Growing(forward & backward), forward | backward
    order = sorted(either)
    visited: set[WordLink] = set()
    while len(visited) < len(growing.links):
        # Moses walks over all cells in this order, and so meets what it has just added where that lies ahead. A link need not
        # be visited twice: a neighbour that was not taken has two linked words, and will not have fewer.
        for link in order:
            if link in visited or link not in growing.links:
                continue
            visited.add(link)
            for i, j in _BESIDE:
                beside = link[0] + i, link[1] + j
                if beside in either and beside not in growing.links and growing.unlinked_words(beside):
                    growing.add(beside)
    return growing


def _finally(forward: set[WordLink], backward: set[WordLink], words: int) -> set[WordLink]:
    """`grow-diag`, and the links of each direction of which so many words or more have none."""
    growing = _grow_diag(forward, backward)
    for direction in (forward, backward):
        for link in sorted(direction):
            if growing.unlinked_words(link) >= words:
                growing.add(link)
    return growing.links


_RULES: dict[str, Callable[[set[WordLink], set[WordLink]], set[WordLink]]] = {
    "intersect": set.intersection,
    "union": set.union,
    "grow-diag": lambda forward, backward: _grow_diag(forward, backward).links,
    "grow-diag-final": lambda forward, backward: _finally(forward, backward, 1),
    "grow-diag-final-and": lambda forward, backward: _finally(forward, backward, 2),
}
METHODS = tuple(_RULES)
