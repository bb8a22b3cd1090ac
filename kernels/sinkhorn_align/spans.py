"""Where the sides of the pairs lie in the flat batch, checked before any backend reads them.

It knows tokens by their index only.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_INTEGERS = (torch.int32, torch.int64)


class Spans(NamedTuple):
    """The two sides of B pairs, special tokens left out: int32 [B] vectors (int64 will do), best on the CPU.

    Launches and blocks are chosen from lengths there; vectors on a GPU are fetched, which waits for it. Sides must not share
    tokens; B may be 0 and a side may be empty.
    """

    source_start_B: Tensor
    """The flat index of each source side's first token."""
    source_length_B: Tensor
    """Tokens of each source side."""
    target_start_B: Tensor
    """The flat index of each target side's first token."""
    target_length_B: Tensor
    """Tokens of each target side."""

    @property
    def pairs(self) -> int:
        """B. (The length of a `Spans`, a tuple, is 4.)"""
        return len(self.source_start_B)

    def checked(self, tokens: int) -> "Spans":
        """The same as int64 on the CPU, as all backends read them.

        Raises ValueError unless every side lies within `tokens` and no two sides share a token.
        """
        for name, vector in self._asdict().items():
            if vector.dim() != 1 or len(vector) != self.pairs or vector.dtype not in _INTEGERS:
                raise ValueError(
                    f"align: {name} is {vector.dtype} {list(vector.shape)}, "
                    f"it must be int32 [{self.pairs}] like source_start_B"
                )
        on_host = torch.stack([vector.to(torch.int64) for vector in self]).cpu()
        start_S, length_S = on_host[0::2].flatten(), on_host[1::2].flatten()
        _check_layout(start_S, length_S, pairs=self.pairs, tokens=tokens)
        return Spans(*on_host)


def _check_layout(start_S: Tensor, length_S: Tensor, pairs: int, tokens: int) -> None:
    """`S` sides: the sources of all pairs, then their targets."""
    # tokens - start cannot leave int64's range where start + length can.
    outside = torch.nonzero((start_S < 0) | (length_S < 0) | (length_S > tokens - start_S)).flatten()
    if len(outside):
        raise ValueError(
            f"align: {_side(outside[0], start_S, length_S, pairs)} is outside the {tokens} tokens of hidden_TD; "
            "give flat token indices"
        )
    filled = torch.nonzero(length_S).flatten()
    order = filled[torch.argsort(start_S[filled])]
    clash = torch.nonzero(start_S[order][1:] < (start_S + length_S)[order][:-1]).flatten()
    if len(clash):
        first, second = order[clash[0]], order[clash[0] + 1]
        raise ValueError(
            f"align: {_side(first, start_S, length_S, pairs)} and {_side(second, start_S, length_S, pairs)} "
            "share tokens; every token belongs to one side of one pair"
        )


def _side(index: Tensor, start_S: Tensor, length_S: Tensor, pairs: int) -> str:
    name = "source" if index < pairs else "target"
    return f"the {name} of pair {int(index) % pairs} (start {int(start_S[index])}, length {int(length_S[index])})"
