"""Where training's monolingual blocks begin in a shard: whole sentences, cut greedily, computed once and kept in the index.

Knows sentence lengths only. The cut is part of the data's order: changing it changes what every sample index means.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DEFAULT_BLOCK_TOKENS = 512
SPECIAL_TOKENS = 2  # <s> and the first </s>


class Block(NamedTuple):
    """One block's part of a shard: its tokens, and where its sentences end in them."""

    start: int
    ends_C: NDArray[np.int64]  # ascending; the last one is the block's own end


@dataclass(frozen=True)
class BlockTable:
    """The blocks of one shard, one row each and a last row for the end; 16 bytes a block.

    Attributes:
        rows_B2: int64 (B+1, 2), a block's first token in the shard and the sentence that this token belongs to.
    """

    rows_B2: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows_B2) - 1

    def block(self, index: int, pointers_S: NDArray[np.int64], token_bytes: int) -> Block:
        """Block `index`; `pointers_S` are the shard's byte offsets of sentences, `token_bytes` apart."""
        (start, first), (end, last) = self.rows_B2[index : index + 2].tolist()
        # sentences that begin inside the block end one: a block that ends inside a sentence ends it with </s> there
        ends_C = pointers_S[first + 1 : last + 1] // token_bytes
        if not len(ends_C) or ends_C[-1] != end:
            ends_C = np.append(ends_C, end)
        return Block(start, ends_C)


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
