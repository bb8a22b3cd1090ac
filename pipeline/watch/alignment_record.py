"""The alignments of a few fixed gold pairs over a run: chosen when it starts, recorded at every validation, read back.

A line of alignments.jsonl holds all that is shown of its step; knows nothing of engines or pictures.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.align.word_alignment import WordAligner, WordEncoder
from pipeline.evaluate.gold import Gold, WordLink
from pipeline.run_folder import ALIGNMENTS
from pipeline.show.pair_view import PairView

MOST_WORDS = 14
"""Of a side of a pair that is shown, where there are such pairs: grids of them fit beside each other."""

PairKey = tuple[str, int]
"""A pair's gold folder and its line there, from 1."""
Views = dict[int, dict[PairKey, PairView]]
"""By step, what was recorded of every pair."""


@dataclass(frozen=True)
class ShownPair:
    """A gold pair that is followed through training."""

    key: PairKey
    source: list[str]
    target: list[str]
    sure: set[WordLink]
    possible: set[WordLink]


def choose_pairs(golds: Mapping[str, Gold], count: int, tokenizer: WordEncoder, longest_side: int) -> list[ShownPair]:
    """The same pairs every time: of each gold folder in turn its best one left, until there are `count`.

    The best pair has the most sure links among those with at most `MOST_WORDS` words a side; then come longer pairs, the
    shortest first. A pair with an empty side, or one of more than `longest_side` tokens, is never taken.
    """

    def rank(pair: ShownPair) -> tuple[int, int]:
        longer = max(len(pair.source), len(pair.target))
        return (0, -len(pair.sure)) if longer <= MOST_WORDS else (longer, 0)

    def fits(pair: ShownPair) -> bool:
        tokens = [len(tokenizer.encode_words(side)[0]) for side in (pair.source, pair.target)]
        return min(tokens) > 0 and max(tokens) <= longest_side

    folders = []
    for name, gold in golds.items():
        sides = zip(gold.source, gold.target, gold.sure, gold.possible, strict=True)
        folders.append(sorted((ShownPair((name, at), *of_pair) for at, of_pair in enumerate(sides, start=1)), key=rank))
    chosen: list[ShownPair] = []
    fitting = [filter(fits, folder) for folder in folders]
    while fitting and len(chosen) < count:
        turn = [next(folder, None) for folder in fitting]
        fitting = [folder for folder, pair in zip(fitting, turn, strict=True) if pair is not None]
        chosen += [pair for pair in turn if pair is not None]
    return chosen[:count]


def align_shown(pairs: Sequence[ShownPair], aligner: WordAligner) -> list[dict[str, Any]]:
    """Links and similarities of the pairs at the aligner's first layer, as they are recorded."""
    words = [(pair.source, pair.target) for pair in pairs]
    found = [links for links, *_ in aligner.align(words)]
    similarities = [aligner.similarities(sides).tolist() for sides in words]
    return [
        {
            "folder": pair.key[0],
            "line": pair.key[1],
            "source": pair.source,
            "target": pair.target,
            "sure": sorted(pair.sure),
            "possible": sorted(pair.possible),
            "links": links,
            "similarities": [[round(value, 2) for value in row] for row in rows],
        }
        for pair, links, rows in zip(pairs, found, similarities, strict=True)
    ]


def read_alignments(run: Path, steps: Collection[int]) -> tuple[Views, int]:
    """What the run's folder has of these steps, the last line of each counting, and the number of damaged lines."""
    path = run / ALIGNMENTS
    views: Views = {}
    damaged = 0
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            content = json.loads(line)
            pairs = {(str(pair["folder"]), int(pair["line"])): _view(pair) for pair in content["pairs"]}
            step = int(content["step"])
        except (ValueError, KeyError, TypeError):
            damaged += 1
            continue
        if step in steps:
            views[step] = pairs
    return dict(sorted(views.items())), damaged


def _view(pair: Mapping[str, Any]) -> PairView:
    """ValueError where similarities and words do not fit."""
    source, target, rows = pair["source"], pair["target"], pair["similarities"]
    if len(rows) != len(source) or any(len(row) != len(target) for row in rows):
        raise ValueError("similarities must be a number for every source and target word")
    links, sure, possible = ({(int(i), int(j)) for i, j in pair[name]} for name in ("links", "sure", "possible"))
    return PairView(source, target, rows, dict.fromkeys(sorted(links), 0.0), sure, possible)
