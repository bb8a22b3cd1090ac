"""The shards of a language as one range of samples, opened when they are first read and closed when too many are.

Knows token files and counts; nothing of shuffling, special tokens or masks.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from data_prep.token_files.block_table import BlockTable, cut_blocks
from data_prep.token_files.manifest import MEND
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import TokenFile

PER_SHARD = 3  # files at most, each a mapping, which holds a file descriptor
OTHER_FILES = 512  # what the rest of a training process may have open
OTHER_MAPPINGS = 16_384  # and mapped: libraries, CUDA's and NCCL's buffers, threads' stacks
MAX_MAPPINGS = Path("/proc/sys/vm/max_map_count")


@cache
def most_open_shards() -> int:
    """How many shards this process may hold open; the limit of open files is raised as far as the system lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = (hard if hard != resource.RLIM_INFINITY else 1 << 20) - OTHER_FILES
    return max(16, min(files, _mappings() - OTHER_MAPPINGS) // PER_SHARD)


def _mappings() -> int:
    """How many mappings the kernel lets a process have."""
    try:
        return int(MAX_MAPPINGS.read_text())
    except FileNotFoundError:
        return 1 << 30  # another system than Linux, or a sandbox without /proc/sys


class OpenShards:
    """Token files by shard, opened on first use and checked against the manifest; those not used for longest are closed."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._open: OrderedDict[Shard, TokenFile] = OrderedDict()

    def __getitem__(self, shard: Shard) -> TokenFile:
        """The token file of a shard.

        Raises:
            ValueError: it is missing, damaged, or not the one that the manifest lists.
        """
        file = self._open.get(shard)
        if file is not None:
            self._open.move_to_end(shard)
            return file
        file = TokenFile(shard.stem)
        blocks = len(file.blocks) if file.blocks else 0
        is_listed = (file.kind, file.languages) == (shard.kind, shard.languages)
        if not is_listed or (len(file), len(file.tokens), blocks) != (shard.sequences, shard.tokens, shard.blocks):
            raise ValueError(f"{shard.stem}.idx: not the file that manifest.json lists; {MEND}")
        self._open[shard] = file
        if len(self._open) > (self._most or most_open_shards()):
            self._open.popitem(last=False)
        return file

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)


OPEN_SHARDS = OpenShards()  # one for the process, as the limit of open files is


class ShardLanguage:
    """The shards of one language or pair as one range of samples, in the manifest's order.

    Attributes:
        cut_here: shards whose blocks had to be found now, as their index holds those of another size.
    """

    def __init__(self, shards: Sequence[Shard], block_tokens: int = 0, files: OpenShards = OPEN_SHARDS) -> None:
        """block_tokens: 0 for pairs, which are their own samples."""
        self._shards, self._files = shards, files
        self._tables: dict[int, BlockTable] = {}  # by the shard's place
        if block_tokens:
            others = [place for place, shard in enumerate(shards) if shard.block_tokens != block_tokens]
            self._tables = {place: self._cut(files[shards[place]], block_tokens) for place in others}
        self.cut_here = len(self._tables)
        counts = [
            len(self._tables[place])
            if place in self._tables
            else shard.blocks
            if block_tokens
            else shard.sequences // 2
            for place, shard in enumerate(shards)
        ]
        self._first = np.concatenate([[0], np.cumsum(counts)])

    @staticmethod
    def _cut(file: TokenFile, block_tokens: int) -> BlockTable:
        file.check_sequences()
        return cut_blocks(file.lengths, block_tokens)

    def __len__(self) -> int:
        return int(self._first[-1])

    def locate(self, indices: np.ndarray) -> Iterator[tuple[TokenFile, BlockTable | None, np.ndarray, np.ndarray]]:
        """By shard: its file and blocks, places in `indices` of the samples that it holds, and their numbers in it."""
        shards = np.searchsorted(self._first, indices, side="right") - 1
        order = np.argsort(shards, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            number = int(shards[places[0]])
            file = self._files[self._shards[number]]
            file.check_size()
            yield file, self._tables.get(number, file.blocks), places, indices[places] - self._first[number]

    def pairs_longer_than(self, limit: int) -> int:
        """How many pairs have a side of more tokens; shards whose longest is no longer are not opened."""
        longer = 0
        for shard in self._shards:
            if shard.max_length > limit:
                longer += int((self._files[shard].lengths.reshape(-1, 2).max(axis=1) > limit).sum())
        return longer
