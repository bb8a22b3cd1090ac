"""The directions in which pairs are translated, as settings name them: "en-de" is out of English into German. NumPy alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np


def trained_ways(languages: Sequence[Sequence[str]], directions: Collection[str]) -> np.ndarray:
    """Whether pairs are trained from their files' first language into the second, and the other way: bool [L, 2].

    languages: the two of each kind of pair; directions: as "en-de"; none: both.
    """
    return np.array([[not directions or way in directions for way in _ways(pair)] for pair in languages])


def _ways(languages: Sequence[str]) -> tuple[str, str]:
    first, second = languages
    return f"{first}-{second}", f"{second}-{first}"


def check_directions(directions: Sequence[str], drawn: Mapping[str, Sequence[str]], place: Path) -> None:
    """ValueError where one of these directions has no pairs, or pairs have none of them.

    Args:
        drawn: the two languages of all pairs that training draws, by name.
        place: of their token files.
    """
    setting = f"objectives.mt.directions = {', '.join(directions)}"
    ways = {name: _ways(languages) for name, languages in drawn.items()}
    there = {way for both in ways.values() for way in both}
    for direction in directions:
        if direction not in there:
            raise ValueError(
                f"{setting}: no pairs of {direction} are read from {place}; {', '.join(sorted(drawn))} are"
            )
    for name, both in ways.items():
        if not set(both) & set(directions):
            raise ValueError(
                f"{setting}: {place} has pairs {name} and neither of their directions is named; add one, or leave the pairs "
                "out by data.weights"
            )
