"""Where training's monolingual blocks begin in a shard: whole sentences, cut greedily, computed once and kept in the index.

Knows sentence lengths only. The cut is part of the data's order: changing it changes what every sample index means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DEFAULT_BLOCK_TOKENS = 512
SPECIAL_TOKENS = 2  # <s> and the first </s>


class Block(NamedTuple):
    """One block's part of a shard: its first token and its end, and the sentences that it touches.

    A sentence may begin before the block or end behind it; the last one may be the next block's, which begins with it.
    """

    start: int
    end: int
    begins_C: NDArray[np.int64]  # in bytes
    lengths_C: NDArray[np.int32]  # in tokens


class Chunks(NamedTuple):
    """What B blocks are made of: each has so many chunks, a sentence or a part of one, of so many tokens."""

    chunks_B: NDArray[np.int64]
    length_C: NDArray[np.int64]


@dataclass(frozen=True)
class BlockTable:
    """The blocks of one shard, one row each and a last row for the end; 16 bytes a block."""

    rows_B2: NDArray[np.int64]
    """int64 (B+1, 2), a block's first token in the shard and the sentence that this token belongs to."""

    def __len__(self) -> int:
        return len(self.rows_B2) - 1

    def block(
        self, index: int, pointers_S: NDArray[np.int64], lengths_S: NDArray[np.int32], tokens: int
    ) -> Block | None:
        """Block `index`, None where it does not lie in the shard, as that of a damaged table.

        Args:
            pointers_S: where the shard's sentences begin, in bytes.
            lengths_S: their tokens.
            tokens: of the whole shard.
        """
        (start, first), (end, last) = self.rows_B2[index : index + 2].tolist()
        if not (0 <= start < end <= tokens and 0 <= first <= last <= len(pointers_S) and first < len(pointers_S)):
            return None
        if (last == len(pointers_S)) != (end == tokens):
            return None
        return Block(start, end, pointers_S[first : last + 1], lengths_S[first : last + 1])


def chunks_of(blocks: Sequence[Block], block_tokens: int, token_bytes: int) -> tuple[Chunks, NDArray[np.bool_]]:
    """The chunks of blocks of a size, and for each block whether its sentences lie around it as `cut_blocks` has them.

    What is said of chunks holds where all blocks are sound.
    """
    sentences_B = np.fromiter((len(block.begins_C) for block in blocks), np.int64, len(blocks))
    first_B = np.cumsum(sentences_B) - sentences_B
    start_B = np.fromiter((block.start for block in blocks), np.int64, len(blocks))
    end_B = np.fromiter((block.end for block in blocks), np.int64, len(blocks))
    begins_C = np.concatenate([block.begins_C for block in blocks])
    length_C = np.concatenate([block.lengths_C for block in blocks]).astype(np.int64)
    ends_C = begins_C + token_bytes * length_C
    last_B = first_B + sentences_B - 1
    sound_C = length_C > 0
    sound_C[1:] &= begins_C[1:] == ends_C[:-1]
    before_B = token_bytes * start_B - begins_C[first_B]
    behind_B = ends_C[last_B] - token_bytes * end_B
    inside_B = token_bytes * end_B - begins_C[last_B]
    sound_C[first_B] = (length_C[first_B] > 0) & (before_B >= 0) & (token_bytes * start_B < ends_C[first_B])
    sound_C[last_B] &= (behind_B >= 0) & (inside_B >= 0)
    # inside a sentence blocks begin and end where it is cut into chunks
    chunk = token_bytes * (block_tokens - SPECIAL_TOKENS)
    sound_C[first_B] &= before_B % chunk == 0
    sound_C[last_B] &= (behind_B == 0) | (inside_B % chunk == 0)
    sound_B = np.logical_and.reduceat(sound_C, first_B)
    # where a block ends at a sentence, that one has no chunk in it
    length_C[last_B] -= behind_B // token_bytes
    length_C[first_B] -= before_B // token_bytes
    has_last_B = length_C[last_B] > 0
    is_chunk_C = np.ones(len(length_C), dtype=bool)
    is_chunk_C[last_B] = has_last_B
    return Chunks(sentences_B - ~has_last_B, length_C[is_chunk_C]), sound_B


def cut_blocks(lengths_S: NDArray[np.int32], block_tokens: int) -> BlockTable:
    """Fill blocks `<s> sent </s> sent </s> …` of at most `block_tokens` with whole sentences, greedily, in file order.

    A sentence that does not fit a block by itself is cut into chunks that do; all but its last fill a block.
    """
    room = block_tokens - SPECIAL_TOKENS
    assert room > 0, "a block holds a token"
    lengths = lengths_S.astype(np.int64)
    chunks_S = np.maximum(-(-lengths // room), 1)
    ordinal_C = np.arange(chunks_S.sum()) - np.repeat(np.cumsum(chunks_S) - chunks_S, chunks_S)
    length_C = np.minimum(np.repeat(lengths, chunks_S) - ordinal_C * room, room)
    cost_C1 = np.concatenate([[0], np.cumsum(length_C + 1)])
    # Where a block that starts at each chunk would end; following that chain from chunk 0 gives the blocks.
    next_C = (np.searchsorted(cost_C1, cost_C1[:-1] + block_tokens - 1, side="right") - 1).tolist()
    first, chunk = [0], 0
    while chunk < len(length_C):
        chunk = next_C[chunk]
        first.append(chunk)
    first_B1 = np.array(first, dtype=np.int64)
    sentence_C1 = np.append(np.repeat(np.arange(len(lengths)), chunks_S), len(lengths))
    starts_B1 = cost_C1[first_B1] - first_B1  # a chunk costs its tokens and one </s>
    return BlockTable(np.stack([starts_B1, sentence_C1[first_B1]], axis=1))
