"""Finds lines, documents and pairs that repeat earlier ones, across all sources of a run, in bounded memory.

Knows hashes and line numbers, one hash a line as `line_hashes` writes them; nothing of text. The first in source order
stays, whatever the number of workers.

On disk, while a run lasts: 8 bytes a line of hashes and 1 byte a line of flags. In memory: at most `BUCKET` hashes at a
time, about 300 MB. Two different texts fall together with a probability of n² / 2⁶⁵ in n texts: 3 % for one pair among
a billion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

BUCKET = 8 << 20
NOT_COMPARED, SAME_DOCUMENT = 0, 1  # reserved hashes: lines out of play, and further lines of a document


@dataclass(frozen=True)
class Duplicates:
    """The repeated lines of a source: a file with one byte per line, 1 where it repeats an earlier one. Picklable."""

    path: Path

    def flags(self, first_line: int, lines: int) -> NDArray[np.bool_]:
        """Which of `lines` lines, from number `first_line` (counted from 1) on, are repeated: bool (lines,)."""
        flags = np.memmap(self.path, dtype=np.bool_, mode="r")
        return np.array(flags[first_line - 1 : first_line - 1 + lines])

    def digest(self, first_line: int, lines: int) -> str:
        """sha256 of these flags: a shard stays as it is only while the same of its lines are repeated."""
        return hashlib.sha256(self.flags(first_line, lines).tobytes()).hexdigest()


def find_duplicates(hash_files: Sequence[Path], flag_files: Sequence[Path], bucket: int = BUCKET) -> int:
    """Compare the lines of all sources of a group and write each one's flags; how many repeat an earlier one.

    Args:
        hash_files: one per source, in the order in which the first of equal lines is to be kept.
        flag_files: where to write each source's flags.
        bucket: largest number of hashes compared at a time.
    """
    hashes = [_mapped(path, np.uint64, "r") for path in hash_files]
    flags = []
    for path, values in zip(flag_files, hashes, strict=True):
        np.zeros(len(values), dtype=np.bool_).tofile(path)
        flags.append(_mapped(path, np.bool_, "r+"))
    parts = -(-sum(map(len, hashes)) // bucket)
    found = sum(_find_in_part(hashes, flags, part, parts) for part in range(parts))
    for values, repeated in zip(hashes, flags, strict=True):
        _spread_over_documents(values, repeated)
    return found


def _mapped(path: Path, kind: type, mode: Literal["r", "r+"]) -> NDArray[Any]:
    return np.memmap(path, dtype=kind, mode=mode) if path.stat().st_size else np.zeros(0, dtype=kind)


def _find_in_part(hashes: list[NDArray[np.uint64]], flags: list[NDArray[np.bool_]], part: int, parts: int) -> int:
    """Flag the repeated ones among the hashes that leave the remainder `part`, which holds all equal to each other."""
    values, places, sources = [], [], []
    for source, whole in enumerate(hashes):
        for start in range(0, len(whole), BUCKET):
            block = np.asarray(whole[start : start + BUCKET])
            chosen = np.flatnonzero((block > SAME_DOCUMENT) & (block % np.uint64(parts) == part))
            values.append(block[chosen])
            places.append(chosen + start)
            sources.append(np.full(len(chosen), source, dtype=np.int32))
    value, place, source_of = np.concatenate(values), np.concatenate(places), np.concatenate(sources)
    order = np.argsort(value, kind="stable")  # equal ones stay in source order
    again = order[1:][value[order[1:]] == value[order[:-1]]]
    for source, repeated in enumerate(flags):
        repeated[place[again[source_of[again] == source]]] = True
    return len(again)


def _spread_over_documents(values: NDArray[np.uint64], repeated: NDArray[np.bool_]) -> None:
    """Flag all lines of the documents whose first line is flagged."""
    current = False
    for start in range(0, len(values), BUCKET):
        block, part = np.asarray(values[start : start + BUCKET]), repeated[start : start + BUCKET]
        if not (block == SAME_DOCUMENT).any():
            current = bool(part[-1])
            continue
        heads = np.flatnonzero(block != SAME_DOCUMENT)
        spans = np.diff(heads, append=len(block))
        lead = heads[0] if len(heads) else len(block)
        part[:lead] = current
        part[lead:] = np.repeat(np.array(part[heads]), spans)
        current = bool(part[-1])
