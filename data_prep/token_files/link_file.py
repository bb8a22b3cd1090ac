"""The word links of a shard's pairs, in tokens: `{stem}.links`, beside the token file of a corpus that came with links.

Knows numbers only: nothing of text, of words or of how links were found.

Layout, little-endian, no padding, K links of P pairs:
    uint16 links (K, 2), a source and a target token of a pair, ascending within it; pairs in the token file's order
    int64 ends (P+1,): pair p has links ends[p] … ends[p+1]-1
    magic b"XLMLINKS" · uint64 version 1 · uint64 P · uint64 K
"""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.files import publish, temporary_name
from data_prep.token_files.mapped import MEND, VERIFY

MAGIC = b"XLMLINKS"
VERSION = 1
FOOTER = struct.Struct("<8sQQQ")
LINK_BYTES = 4
MOST_TOKENS = 1 << 16  # of a side: more cannot be told apart


class LinkFileWriter:
    """Takes the links of pairs, one pair after the other, and publishes them. Nothing is visible before `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ends = array("q", [0])
        self._digest = hashlib.sha256()
        self._file: io.FileIO | None = None

    def add(self, links_K2: NDArray[np.int64]) -> None:
        """The links of the next pair, in tokens of its source and its target, ascending and each once."""
        assert links_K2.max(initial=0) < MOST_TOKENS, "a side is not that long"
        self._ends.append(self._ends[-1] + len(links_K2))
        self._write(links_K2.astype("<u2").tobytes())

    @property
    def links(self) -> int:
        """How many were added."""
        return self._ends[-1]

    def _write(self, raw: bytes) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(temporary_name(self.path), "wb")
        self._digest.update(raw)
        left = memoryview(raw)
        while left:
            left = left[self._file.write(left) :]

    def close(self) -> dict[str, int | str]:
        """Publish the file durably: its size and sha256, as markers have them."""
        self._write(np.frombuffer(self._ends, dtype=np.int64).astype("<i8", copy=False).tobytes())
        self._write(FOOTER.pack(MAGIC, VERSION, len(self._ends) - 1, self.links))
        assert self._file is not None
        size = self._file.tell()
        self._file.close()
        publish(self.path)
        return {"bytes": size, "sha256": self._digest.hexdigest()}

    def discard(self) -> None:
        """Delete what is not published."""
        if self._file is not None:
            self._file.close()
        temporary_name(self.path).unlink(missing_ok=True)


class LinkFile:
    """Memory-mapped reader of the links of a shard's pairs.

    Raises:
        ValueError: it is cut off, of another format or of another number of pairs.
    """

    ends: NDArray[np.int64]
    """int64 (P+1,), links of pair p are ends[p] … ends[p+1]-1."""
    links: NDArray[np.uint16]
    """uint16 (K, 2), source and target token of each."""

    def __init__(self, path: Path, map: mmap.mmap, pairs: int) -> None:
        """map: the file's bytes; pairs: of the token file that it stands beside."""
        self.path, self.map = path, map
        raw = np.frombuffer(map, dtype=np.uint8)
        footer = bytes(raw[-FOOTER.size :])
        magic, version, found, links = FOOTER.unpack(footer) if len(footer) == FOOTER.size else (b"", 0, 0, 0)
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"{path}: not a file of links, version {VERSION}, or cut off; {MEND}")
        if found != pairs:
            raise ValueError(f"{path}: has the links of {found} pairs, its token file has {pairs}; {MEND}")
        announced = LINK_BYTES * links + 8 * (pairs + 1) + FOOTER.size
        if len(raw) != announced:
            raise ValueError(f"{path}: {len(raw)} bytes, {announced} announced; {MEND}")
        self.links = raw[: LINK_BYTES * links].view("<u2").reshape(-1, 2)
        self.ends = raw[LINK_BYTES * links : -FOOTER.size].view("<i8")

    def read(self, pairs_B: NDArray[np.int64], lengths_B2: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """The links of these pairs: the place in `pairs_B` of each link's, int64 (K,), and its tokens, int64 (K, 2).

        lengths_B2: tokens of each pair's source and target.

        Raises:
            ValueError: they lie outside of the file or of their sentences, so that it is damaged.
        """
        begin_B, end_B = self.ends[pairs_B], self.ends[pairs_B + 1]
        if (begin_B < 0).any() or (end_B < begin_B).any() or (end_B > len(self.links)).any():
            raise ValueError(self.damage)
        count_B = end_B - begin_B
        place_K = np.repeat(np.arange(len(pairs_B)), count_B)
        row_K = np.arange(len(place_K)) + np.repeat(begin_B - (np.cumsum(count_B) - count_B), count_B)
        links_K2 = self.links[row_K].astype(np.int64)
        if (links_K2 >= lengths_B2[place_K]).any():
            raise ValueError(self.damage)
        return place_K, links_K2

    @property
    def damage(self) -> str:
        """What to say where links do not lie as they were written."""
        return f"{self.path}: damaged, its links do not lie within their sentences; {VERIFY}"

    def problems(self, lengths_S: NDArray[np.int32]) -> list[str]:
        """Every broken invariant, one line each. lengths_S: tokens of the token file's sequences."""
        counts_P = np.diff(self.ends)
        if self.ends[0] != 0 or self.ends[-1] != len(self.links) or (counts_P < 0).any():
            return [f"{self.path}: the pairs' links do not lie end to end"]
        pair_K = np.repeat(np.arange(len(counts_P)), counts_P)
        found = []
        if (self.links >= lengths_S.reshape(-1, 2)[pair_K]).any():
            found.append(f"{self.path}: a link lies outside of its sentences")
        keys_K = (pair_K * MOST_TOKENS + self.links[:, 0]) * MOST_TOKENS + self.links[:, 1]
        if (np.diff(keys_K) <= 0).any():
            found.append(f"{self.path}: the links of a pair are not in ascending order")
        return found
