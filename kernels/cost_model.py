"""What the fused and streamed kernels should cost on an H200, from what they compile to: time and share of a copy's bandwidth.

    python kernels/cost_model.py

A model that can be wrong: it reads `compiled.json` (bf16, clip, sm_90) and names every assumption, so that the first figures
measured on a GPU (`benchmark.py`, `gpu_checks.py`, a profiler) say which one failed. Nothing here was measured but what the
comments call measured.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark_peers import real_lengths

from sinkhorn_align.gpu.tiles import FUSED_TILES, SHORT_TILE

RECORD = Path(__file__).with_name("compiled.json")
CAPABILITY = 90

COPY_BYTES_A_SECOND = 4.3e12
"""Read and written by a large copy on an H200, as others measured it."""
CLOCK = 1.98e9
"""Hz."""
MULTIPROCESSORS = 132
SCHEDULERS = 4
"""Of a multiprocessor, each of which issues one instruction a clock at best."""
REGISTERS = 65536
SHARED_MEMORY = 227 * 1024
MOST_WARPS = 64
MOST_PROGRAMS = 32
CLOCKS_BETWEEN = 5.0
"""Assumed: clocks from one instruction of a warp to its next, when nobody is in its way."""
BEST_ISSUE = 0.8
"""Assumed: of a scheduler's clocks, the part that many warps can fill."""
FIRST_BYTES = 2.0e-6
"""Assumed: seconds from a program's start to its first products."""
STEP_LATENCY = 0.7e-6
"""Assumed: seconds from a load's issue to its data, with the memory busy."""
LAUNCH = 2.0e-6
"""Assumed: seconds from the first launch to the first program at work."""
SHARPNESS = 4.0
"""Assumed: bounds add up as powers of this; the larger, the more the largest bound alone decides."""
STREAMED_INSTRUCTIONS_A_CELL = 20.0
"""Assumed: of a lane, for a cell of the plan in one pass."""
STREAMED_PASSES = 4
"""Column step, row and column step, last row step with round 0, round 1."""


@dataclass(frozen=True)
class Kernel:
    """What a launch compiles to; instructions are those of all warps for one pair."""

    warps: int
    registers: int
    shared: int
    instructions: int

    @property
    def programs(self) -> int:
        """That fit a multiprocessor at a time. Registers are given out to warps in parts of 8 a thread."""
        registers = -(-self.registers // 8) * 8 * 32 * self.warps
        fit = (REGISTERS // registers, SHARED_MEMORY // (self.shared + 1024), MOST_WARPS // self.warps)
        return max(1, min(*fit, MOST_PROGRAMS))


@dataclass(frozen=True)
class Cost:
    """Seconds of a launch, by what bounds it, and the bytes that it has to move."""

    memory: float
    issue: float
    latency: float
    moved: float

    @property
    def seconds(self) -> float:
        return sum(bound**SHARPNESS for bound in (self.memory, self.issue, self.latency)) ** (1 / SHARPNESS)

    @property
    def bound(self) -> str:
        return max(("memory", "issue", "latency"), key=lambda name: getattr(self, name))


def kernels() -> dict[int, Kernel]:
    """By tile: 16 is the short pairs' part of the launch of 32, with that launch's registers; 0 is the streamed path."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["launches"]
    found: dict[int, Kernel] = {}
    launched: dict[int, Kernel] = {}
    for row in rows:
        if (row["capability"], row["dtype"], row["settings"]) != (CAPABILITY, "bf16", "clip"):
            continue
        kernel = Kernel(row["warps"], row["registers"], row["shared"], row["instructions"])
        if row["kernel"] == "align_pairs_streamed":
            found[0] = kernel
        elif row["short"]:
            launched[row["short"]] = kernel
        else:
            found[row["rows"]] = kernel
    for side, kernel in launched.items():
        found[side] = Kernel(kernel.warps, kernel.registers, kernel.shared, found[side].instructions)
    return found


def issue_rate(warps: int) -> float:
    """Instructions a second of one multiprocessor on which so many warps are at work."""
    return CLOCK * SCHEDULERS * min(BEST_ISSUE, warps / SCHEDULERS / CLOCKS_BETWEEN)


def fused_cost(kernel: Kernel, pairs: int, tokens: int, width: int, issued: int) -> Cost:
    """Of `pairs` pairs that have `tokens` tokens and issue `issued` instructions in all."""
    moved = 2.0 * tokens * width
    at_work = min(kernel.programs, -(-pairs // MULTIPROCESSORS))
    issue = issued / MULTIPROCESSORS / issue_rate(at_work * kernel.warps)
    # A program alone: it loads two steps ahead, and its warps wait for nothing but their own instructions.
    alone = FIRST_BYTES + width * 2 / 128 / 2 * STEP_LATENCY + issued / pairs / kernel.warps * CLOCKS_BETWEEN / CLOCK
    latency = alone * max(1.0, pairs / (MULTIPROCESSORS * at_work))
    return Cost(moved / COPY_BYTES_A_SECOND, issue, latency, moved)


def streamed_cost(kernel: Kernel, lengths: Sequence[tuple[int, int]], width: int) -> Cost:
    """Of long pairs: tiles of S by programs of their own, then one program a pair, alone on its multiprocessor."""
    moved = 2.0 * width * sum(map(sum, lengths))
    rate = issue_rate(kernel.warps)

    def filtering(rows: int, columns: int) -> float:
        padded = 256 if columns <= 256 else 512
        return STREAMED_PASSES * STREAMED_INSTRUCTIONS_A_CELL * rows * padded / 32 / rate

    each = [filtering(*pair) for pair in lengths]
    product = FIRST_BYTES + width * 2 / 128 / 2 * STEP_LATENCY
    issue = sum(each) / MULTIPROCESSORS
    return Cost(moved / COPY_BYTES_A_SECOND, issue, product + max(max(each), issue), moved)


def side_by_side(costs: Sequence[Cost]) -> float:
    """Seconds of launches that share the device: they add up in what they move and issue, and the longest has its latency."""
    memory, issue, moved = (sum(getattr(cost, name) for cost in costs) for name in ("memory", "issue", "moved"))
    return LAUNCH + Cost(memory, issue, max(cost.latency for cost in costs), moved).seconds


def batch_cost(lengths: Sequence[tuple[int, int]], width: int) -> tuple[float, float, list[tuple[str, int, Cost]]]:
    """Of a batch of pairs of any lengths: seconds, share of the copy's bandwidth, and each launch with its pairs."""
    compiled, launches = kernels(), []
    long = [pair for pair in lengths if max(pair) > FUSED_TILES[-1]]
    if long:
        launches.append(("streamed", len(long), streamed_cost(compiled[0], long, width)))
    for shortest, side in reversed(list(itertools.pairwise((0, *FUSED_TILES)))):
        pairs = [pair for pair in lengths if shortest < max(pair) <= side]
        if pairs:
            short = sum(max(pair) <= SHORT_TILE for pair in pairs)
            issued = short * compiled[SHORT_TILE].instructions + (len(pairs) - short) * compiled[side].instructions
            cost = fused_cost(compiled[side], len(pairs), sum(map(sum, pairs)), width, issued)
            launches.append((f"{side} x {side}", len(pairs), cost))
    costs = [cost for _, _, cost in launches]
    seconds = side_by_side(costs)
    return seconds, sum(cost.memory for cost in costs) / seconds, launches


def of_real_corpora(pairs: int) -> list[tuple[int, int]]:
    """Both lengths of each pair: 25 source and 30 target tokens on average."""
    return list(zip(*(length_B.tolist() for length_B in real_lengths(pairs)), strict=True))


def main() -> None:
    print("a model, not a measurement: H200, 2,048 pairs, bf16, clip, width 768")
    cases = {f"{side} x {side}": [(side, side)] * 2048 for side in (16, 32, 64, 128)}
    for name, lengths in {**cases, "real lengths": of_real_corpora(2048)}.items():
        seconds, share, launches = batch_cost(lengths, 768)
        print(f"{name}: {seconds * 1e6:.0f} µs, {share:.0%} of a copy, {len(launches)} launches")
        for launch, pairs, cost in launches:
            parts = ", ".join(f"{part} {getattr(cost, part) * 1e6:.1f}" for part in ("memory", "issue", "latency"))
            print(f"  {launch}: {pairs} pairs, bound by {cost.bound} (µs: {parts})")


if __name__ == "__main__":
    main()
