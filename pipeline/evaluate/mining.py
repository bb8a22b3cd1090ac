"""Bitext mining as in BUCC: translations among two sets of sentences by ratio margin, and how many of them are gold.

Candidates are the best target of each source and the best source of each target; of them pairs are taken from the largest
margin on, each sentence once (Artetxe & Schwenk, ACL 2019, `max`). A text that stands in a file several times takes part once,
and its pair is left out, since nobody can say which of its ids is meant; so does XTREME. Knows texts, ids and vectors; nothing
of models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluate.margin import NEIGHBOURS, best_by_margin, nearest
from pipeline.texts.identified import Identified


@dataclass(frozen=True)
class Distinct:
    """The texts of a file that are not blank, each once, in the order in which they first come."""

    texts: list[str]
    places: list[list[int]]
    """Where each of them stands in the file."""

    @property
    def repeated(self) -> int:
        """How many of them stand there several times."""
        return sum(len(places) > 1 for places in self.places)


def distinct(side: Identified) -> Distinct:
    """The distinct texts of a file; ValueError where all of it is blank."""
    places: dict[str, list[int]] = {}
    for place, text in enumerate(side.texts):
        if stripped := text.strip():
            places.setdefault(stripped, []).append(place)
    if not places:
        raise ValueError(f"{side.path}: all its lines are blank; give sentences")
    return Distinct(list(places), list(places.values()))


@dataclass(frozen=True)
class MinedPair:
    """Two sentences, by their places in their files, and their margin."""

    source: int
    target: int
    margin: float


def mine(
    source: Distinct,
    target: Distinct,
    source_SD: Tensor,
    target_TD: Tensor,
    neighbours: int = NEIGHBOURS,
    device: torch.device | str = "cpu",
    compared: Callable[[int], None] = lambda count: None,
) -> list[MinedPair]:
    """The pairs that belong together, the largest margin first.

    Args:
        source_SD, target_TD: vectors of the distinct texts, fp32 on the host, of length 1.
        neighbours: k of the margin.
        device: where similarities are computed, in blocks of 128 MiB.
        compared: is told of how many texts, of both sides in all, the neighbours are known.
    """
    of_source = nearest(source_SD, target_TD, neighbours, device, compared)
    of_target = nearest(target_TD, source_SD, neighbours, device, lambda count: compared(len(source_SD) + count))
    best_S, margin_S = best_by_margin(of_source, of_target)
    best_T, margin_T = best_by_margin(of_target, of_source)
    source_C = np.concatenate([np.arange(len(best_S)), best_T.numpy()])
    target_C = np.concatenate([best_S.numpy(), np.arange(len(best_T))])
    margin_C = np.concatenate([margin_S.numpy(), margin_T.numpy()])
    pairs = []
    for at in _each_once(source_C, target_C, margin_C):
        in_source, in_target = source.places[source_C[at]], target.places[target_C[at]]
        if len(in_source) == len(in_target) == 1:
            pairs.append(MinedPair(in_source[0], in_target[0], float(margin_C[at])))
    return pairs


def _each_once(source_C: NDArray[np.int64], target_C: NDArray[np.int64], margin_C: NDArray[np.float64]) -> list[int]:
    """The candidates that are taken when they come by falling margin and each sentence may be taken once."""
    taken, used_source, used_target = [], set(), set()
    for at in np.argsort(-margin_C, kind="stable").tolist():
        s, t = int(source_C[at]), int(target_C[at])
        if s not in used_source and t not in used_target:
            used_source.add(s)
            used_target.add(t)
            taken.append(at)
    return taken


@dataclass(frozen=True)
class MiningScore:
    """Pairs at or above a threshold against gold ones."""

    threshold: float
    pairs: int
    right: int
    gold: int

    @property
    def precision(self) -> float:
        return self.right / self.pairs if self.pairs else 0.0

    @property
    def recall(self) -> float:
        return self.right / self.gold

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.pairs + self.gold)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"precision": self.precision, "recall": self.recall, "f1": self.f1}


def score_at(threshold: float, margins: Sequence[float], right: Sequence[bool], gold: int) -> MiningScore:
    """How good the pairs with at least this margin are.

    right: which of them are gold; gold: how many gold pairs there are in all.
    """
    taken = [is_right for margin, is_right in zip(margins, right, strict=True) if margin >= threshold]
    return MiningScore(threshold, len(taken), sum(taken), gold)


def best_threshold(margins: Sequence[float], right: Sequence[bool], gold: int) -> float:
    """The threshold with the largest F1, half-way to the pair below it; the highest of several.

    margins: by falling size. Where no pair is right, the threshold is above all of them.
    """
    if not any(right):
        return math.nextafter(max(margins, default=0.0), math.inf)
    margin_C, right_C = np.array(margins), np.cumsum(right)
    ends = np.append(margin_C[1:] != margin_C[:-1], True)  # equal margins are on the same side of any threshold
    f1_C = np.where(ends, 2 * right_C / (np.arange(1, len(margin_C) + 1) + gold), -1.0)
    last = int(f1_C.argmax())
    if last + 1 == len(margin_C):
        return float(margin_C[last])
    half_way = float((margin_C[last] + margin_C[last + 1]) / 2)
    return half_way if half_way > margin_C[last + 1] else float(margin_C[last])


def are_gold(pairs: Sequence[MinedPair], source: Identified, target: Identified, gold: Collection[Any]) -> list[bool]:
    """Which of the pairs are among gold pairs of ids."""
    return [(source.ids[pair.source], target.ids[pair.target]) in gold for pair in pairs]
