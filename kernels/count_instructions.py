"""Counts the instructions that each warp of a compiled kernel issues for one pair, by following its machine code.

Branches are taken as an ordinary pair of the tile takes them: of all ways from the first instruction to the last, the one
through most loops, and of those the shortest. So the steps of the product and of Sinkhorn are taken, and neither the logarithms
of wide kernels nor what diverged warps would do; of a loop, what comes after its way out is left out. A profiler on a GPU may
say how far that holds; `cost_model.py` goes on.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

LABEL = re.compile(r"^(\.L_x_\d+):")
INSTRUCTION = re.compile(r"^/\*[0-9a-f]{4,}\*/\s+(.*?);")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
TARGET = re.compile(r"\b(?:BRA|CALL\.REL\.NOINC)\b.*?(\.L_x_\d+)")
READS_GLOBAL_MEMORY = ("LDG", "UTMALDG")


@dataclass(frozen=True)
class Flow:
    """Instructions of a kernel, and to which each may go on; the end is their number."""

    instructions: list[str]
    after: list[list[int]]


def flow_of(sass: str) -> Flow:
    """Read what `nvdisasm -c` prints of a cubin with one kernel."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in map(str.strip, sass.splitlines()):
        if label := LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif instruction := INSTRUCTION.match(line):
            instructions.append(instruction[1].strip())
    return Flow(
        instructions, [_after(index, text, labels, len(instructions)) for index, text in enumerate(instructions)]
    )


def _after(index: int, text: str, labels: dict[str, int], end: int) -> list[int]:
    conditional = bool(PREDICATE.match(text)) or bool(re.search(r"\bBRA\S*\s+!?U?P\d", text))
    target = TARGET.search(text)
    if target and "BRA.DIV" not in text:
        return [*([index + 1] if conditional else []), labels[target[1]]]
    if re.search(r"\bEXIT\b", text):
        return [*([index + 1] if conditional else []), end]
    return [index + 1]


def _walk(flow: Flow) -> tuple[list[int], set[tuple[int, int]]]:
    """Instructions in the order in which a depth-first walk is done with them, and the jumps back to where it is at work."""
    at_work, done, order, back = {0}, {len(flow.instructions)}, [], set()
    stack = [(0, iter(flow.after[0]))]
    while stack:
        here, left = stack[-1]
        for there in left:
            if there in at_work:
                back.add((here, there))
            elif there not in done:
                at_work.add(there)
                stack.append((there, iter(flow.after[there])))
                break
        else:
            stack.pop()
            at_work.discard(here)
            done.add(here)
            order.append(here)
    return order, back


def loops_of(flow: Flow) -> dict[int, set[int]]:
    """The instructions of every loop by its first. A jump to itself, which ends a kernel, is none."""
    order, back = _walk(flow)
    before = defaultdict(list)
    for here in order:
        for there in flow.after[here]:
            before[there].append(here)
    loops: dict[int, set[int]] = defaultdict(set)
    for last, first in back:
        if last == first:
            continue
        body, todo = {first, last}, [last]
        while todo:
            for earlier in before[todo.pop()]:
                if earlier not in body:
                    body.add(earlier)
                    todo.append(earlier)
        loops[first] |= body
    return loops


def instructions_of_a_pair(sass: str, steps: int, iterations: int) -> Counter[str]:
    """How often a warp issues each operation for one pair of `align_pairs_fused`, whose product takes `steps` steps.

    A loop that reads global memory is one over those steps, any other one over Sinkhorn's iterations.
    """
    flow = flow_of(sass)
    order, back = _walk(flow)
    loops = loops_of(flow)
    times = dict.fromkeys(order, 1)
    for body in loops.values():
        reads = any(word in flow.instructions[index] for index in body for word in READS_GLOBAL_MEMORY)
        for index in body:
            times[index] *= steps if reads else iterations

    end = len(flow.instructions)
    best: dict[int, tuple[int, int]] = {end: (0, 0)}  # minus loops, instructions from here to the end
    following: dict[int, int] = {}
    for here in order:
        ways = [(best[there], there) for there in flow.after[here] if there in best and (here, there) not in back]
        if ways:
            (minus_loops, instructions), following[here] = min(ways)
            best[here] = minus_loops - (here in loops), instructions + times[here]
    counted: Counter[str] = Counter()
    here = 0
    while here != end:
        operation = PREDICATE.sub("", flow.instructions[here]).split()[0]
        counted[operation.partition(".")[0]] += times[here]
        here = following[here]
    return counted
