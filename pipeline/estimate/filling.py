"""How few micro-steps a step can be cut into before a device's memory is full. Knows arithmetic alone.

Larger micro-steps give the same update with fewer and larger products; the word embedding's gradient is made once in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

FRAMEWORK = 1e9
"""Bytes on a GPU of what is not counted: the framework and its kernels."""
FILLED = 0.9
"""Share of a device's memory that is planned with: the rest is for fragments, and for steps of more tokens than the mean."""


@dataclass(frozen=True)
class Filling:
    """A cut of the step that fits."""

    micro_steps: int
    needed: float
    """Bytes on each rank, the framework's among them."""
    there: float
    """Bytes that the device has."""

    def __str__(self) -> str:
        return f"batch.micro_steps={self.micro_steps}: {self.needed / 1e9:,.0f} of {self.there / 1e9:,.0f} GB"


def fewest_micro_steps(
    total: Callable[[int], float], step_sizes: Iterable[int], ranks: int, memory: float
) -> Filling | None:
    """The fewest micro-steps that fit; None where not even one sample of each stream at a time does.

    total: bytes of a rank by the number of micro-steps; step_sizes: samples of each stream in a step, which ranks and
    micro-steps share evenly; memory: bytes of a device.
    """
    of_rank = [size // ranks for size in step_sizes]
    for micro_steps in range(1, min(of_rank) + 1):
        if any(samples % micro_steps for samples in of_rank):
            continue
        needed = total(micro_steps) + FRAMEWORK
        if needed <= FILLED * memory:
            return Filling(micro_steps, needed, memory)
    return None
