"""What the word aligner encodes at once: a pair whole, or the overlapping windows of one that is too long for it.

Knows token ids and the words that they are of; nothing of hidden states or links.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

SPECIAL_TOKENS = 4
"""Of a pair whose sides are encoded apart, `<s>` and `</s>` each; a pair in one sequence has one fewer."""


@dataclass(frozen=True)
class Side:
    """One sentence's tokens, and the index of the word that each is of."""

    ids: list[int]
    word_of_id: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, length: int) -> Side:
        end = start + length
        return Side(self.ids[start:end], self.word_of_id[start:end])


@dataclass(frozen=True)
class WindowPart:
    """What is encoded at once: a pair, or a window of a long one."""

    pair: int  # its number among those that are aligned together
    source: Side
    target: Side
    owned_source: tuple[int, int] | None = None  # of a window: links of these tokens count, of one side or of the other
    owned_target: tuple[int, int] | None = None

    @property
    def lengths(self) -> tuple[int, int]:
        return len(self.source), len(self.target)

    @property
    def tokens(self) -> int:
        return sum(self.lengths) + SPECIAL_TOKENS

    def owns(self, source: int, target: int) -> bool:
        """Whether a link between these tokens counts, or another window sees it better."""
        sides = (self.owned_source, source), (self.owned_target, target)
        return all(owned is None or owned[0] <= token < owned[1] for owned, token in sides)


def cut_into_parts(pair: int, source: Side, target: Side, longest_side: int, window: int) -> list[WindowPart]:
    """The pair whole; where a side is longer than `longest_side`, its windows; nothing where a side is empty.

    The longer side is cut into windows of `window` tokens, each overlapping the next by half or more, and its translation
    into as many, at the same relative places: translations run alongside each other. A window owns the tokens of the longer
    side that are nearer to its middle than to any other's.
    """
    if not source.ids or not target.ids:
        return []
    longer = max(len(source), len(target))
    if longer <= longest_side:
        return [WindowPart(pair, source, target)]
    # Starts are at most half a window apart on the longer side.
    count = 1 + -(-2 * (longer - window) // window)
    source_starts, target_starts = (_starts(len(side), count, window) for side in (source, target))
    by_source = len(source) >= len(target)
    starts = source_starts if by_source else target_starts
    # A token is nearest to the window whose middle is; borders lie halfway between two middles.
    borders = [0, *((a + b + window) // 2 for a, b in pairwise(starts)), longer]
    parts = []
    for k in range(count):
        sides = source.cut(source_starts[k], window), target.cut(target_starts[k], window)
        owned = borders[k] - starts[k], borders[k + 1] - starts[k]
        parts.append(WindowPart(pair, *sides, owned if by_source else None, None if by_source else owned))
    return parts


def _starts(length: int, count: int, window: int) -> list[int]:
    """Where the windows of a side begin: spread evenly, the last ends with the side; all 0 where it fits whole."""
    over = max(length - window, 0)
    return [round(k * over / (count - 1)) for k in range(count)]
