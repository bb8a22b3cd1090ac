"""Text in blocks of whole lines: reading, checking and measuring many lines at a time, in bounded memory.

Knows bytes and lines; nothing of tokens or shards. All positions are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_prep.text.readers import (
    BYTE_ORDER_MARK,
    BadRecordError,
    TextFile,
    decode_line,
    is_blank,
    parse_tsv,
    split_lines,
)

BLOCK_BYTES = 1 << 18
MAX_LINE_BYTES = 1 << 20  # a longer line is set aside: encoding one takes about thirty times its size in memory
MAX_HELD_BYTES = 1 << 26  # a longer line ends the reading of its source: a bad line has to be held to be told of
LONG_LINE = "long_line"
_IS_SPACE = np.array([bytes([byte]).isspace() for byte in range(256)])


def raw_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """What is left of a stream, a block at a time."""
    while raw := stream.read(BLOCK_BYTES):
        yield raw


def line_blocks(blocks: Iterable[bytes], path: TextFile) -> Iterator[bytes]:
    """Cut text anew after its newlines; only the last block may end without one. `path` is for messages.

    Raises:
        ValueError: a line longer than `MAX_HELD_BYTES`.
    """
    rest: list[bytes] = []
    held, position = 0, 0
    for raw in blocks:
        end = raw.rfind(b"\n") + 1
        if end:
            whole = raw[:end] if end < len(raw) else raw
            block = b"".join((*rest, whole)) if rest else whole
            position += len(block)
            yield block
            rest, held = [], 0
        if end < len(raw):
            rest.append(raw[end:])
            held += len(rest[-1])
            if held > MAX_HELD_BYTES:
                raise ValueError(
                    f"{path}: the line that begins at byte {position} is longer than {MAX_HELD_BYTES >> 20} MiB; "
                    "give text with a newline at each line's end"
                )
    if rest:
        yield b"".join(rest)


def without_mark(stream: BinaryIO) -> tuple[int, Iterator[bytes]]:
    """Where a file's text begins, after a byte order mark if there is one, and its blocks from there."""
    head = stream.read(BLOCK_BYTES)
    start = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0

    def blocks() -> Iterator[bytes]:
        if len(head) > start:
            yield head[start:]
        yield from raw_blocks(stream)

    return start, blocks()


def line_ends(text: bytes) -> NDArray[np.int64]:
    """int64 (lines,): where each line ends, one past its newline; an unfinished last line counts."""
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n")) + 1
    return ends if text.endswith(b"\n") or not text else np.append(ends, len(text))


def count_lines(text: bytes) -> int:
    """Number of lines; an unfinished last one counts."""
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def in_step(sides: list[Iterator[bytes]]) -> Iterator[tuple[bytes, ...]]:
    """Blocks of whole lines of one file, or of several with the same number of lines each.

    Where one file ends before another, the last item holds what is left of each: its lines then differ in number.
    """
    if len(sides) == 1:
        yield from ((block,) for block in sides[0])
        return
    rests = [next(side, b"") for side in sides]
    while all(rests):
        ends = [line_ends(rest) for rest in rests]
        lines = min(map(len, ends))
        cuts = [int(end[lines - 1]) for end in ends]
        yield tuple(rest[:cut] for rest, cut in zip(rests, cuts, strict=True))
        rests = [rest[cut:] or next(side, b"") for rest, cut, side in zip(rests, cuts, sides, strict=True)]
    if any(rests):
        yield tuple(rests)


def line_starts(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (lines,): where each line begins, from where each ends."""
    return np.concatenate([[0], ends[:-1]])


def blank_lines(text: bytes, ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (lines,): which lines separate documents (`is_blank`). `ends`: `line_ends(text)`."""
    starts = line_starts(ends)
    first = np.frombuffer(text, dtype=np.uint8)[starts]
    blank = first == ord("\n")
    # white space at a line's beginning seldom goes on to its end
    for line in np.flatnonzero(_IS_SPACE[first] & ~blank):
        blank[line] = is_blank(text[starts[line] : ends[line]])
    return blank


def is_clean(block: bytes) -> bool:
    """Whether every line of a block is usable text, found for all at once: newlines never lie inside a character."""
    try:
        decode_line(block)
    except BadRecordError:
        return False
    return len(block) <= MAX_LINE_BYTES or max(map(len, split_lines(block))) <= MAX_LINE_BYTES


def unusable(raw: bytes, columns: tuple[str, ...]) -> str | None:
    """Why a line is not usable: "long_line", or a reason of `decode_line` or, with columns, `parse_tsv`; else None."""
    if len(raw) > MAX_LINE_BYTES and not is_blank(raw):
        return LONG_LINE
    try:
        _ = parse_tsv(raw, columns) if columns else decode_line(raw)
    except BadRecordError as reason:
        return str(reason)
    return None
