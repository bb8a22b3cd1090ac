"""What a user may choose about an alignment, and the constants of its definition.

The settings are checked here, once, and know nothing of tensors or backends.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Cost = Literal["clip", "exp"]
Similarity = Literal["dot", "cosine"]

CLIP_FLOOR = 1e-6
"""The `clip` cost reads every similarity below this as this, so that its logarithm exists."""

LARGEST_SIMILARITY = 1e37
"""A similarity (or similarity / temperature) beyond this magnitude counts as non-finite: the plan is a sum of a log
kernel and two potentials of its size, which must stay within fp32."""

MOST = 2**31 - 1
"""Of iterations and of rounds: they are int32 in C."""

SMALLEST_SIDE_FOR_MORE_ROUNDS = 3
"""Pairs whose shorter side has fewer tokens keep the links of round 0."""


@dataclass(frozen=True)
class AlignmentSettings:
    """How links are found. Raises ValueError where a value is outside its range or would have no effect."""

    cost: Cost = "clip"
    """`clip`: log K = log max(S, 1e-6), column step first. `exp`: log K = S / temperature, row step first."""
    similarity: Similarity = "dot"
    """S: the dot product, or with the `exp` cost also the cosine (a zero vector has cosine 0 with every other)."""
    temperature: float = 1.0
    """μ of the `exp` cost; with `clip` it has no effect and must stay 1."""
    sinkhorn_iterations: int = 2
    """Pairs of Sinkhorn steps; 0 links by the kernel itself."""
    filter_rounds: int = 2
    """Rounds of mutual argmax, the first included. 0: no filtering and no links; every token's partner is the heaviest cell of
    its row or column of the plan, the lowest index among equals, whether or not that leads back."""
    discount: float = 0.9
    """α: what a cell's mass is worth in a further round when exactly one of its row and column has a link."""

    def __post_init__(self) -> None:
        _check(self.cost in get_args(Cost), "cost", self.cost, "clip or exp")
        _check(self.similarity in get_args(Similarity), "similarity", self.similarity, "dot or cosine")
        _check(math.isfinite(self.temperature) and self.temperature > 0, "temperature", self.temperature, "above 0")
        _check(0 <= self.sinkhorn_iterations <= MOST, "sinkhorn_iterations", self.sinkhorn_iterations, f"0 to {MOST}")
        _check(0 <= self.filter_rounds <= MOST, "filter_rounds", self.filter_rounds, f"0 (no filtering) to {MOST}")
        _check(0 < self.discount <= 1, "discount", self.discount, "above 0 and at most 1")
        if self.cost == "clip":
            _check(self.similarity == "dot", "similarity", self.similarity, "dot with cost=clip (cosine is for exp)")
            _check(self.temperature == 1.0, "temperature", self.temperature, "1 with cost=clip (only cost=exp has one)")


def check_filters(settings: AlignmentSettings, backend: str) -> None:
    """ValueError where a backend that can only filter is asked not to."""
    if settings.filter_rounds == 0:
        raise ValueError(f"align: backend {backend!r} has no filter_rounds=0; use 'auto' or 'torch'")


def _check(holds: bool, field: str, value: object, mend: str) -> None:
    if not holds:
        raise ValueError(f"alignment settings: {field} is {value!r}, it must be {mend}")
