"""Where the sides of the pairs lie in the flat batch, checked before any backend reads them.

It knows tokens by their index only.
"""

from typing import NamedTuple

import numpy as np
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
        start_2B, length_2B = on_host.numpy()[0::2], on_host.numpy()[1::2]
        if not _lies_in_order(start_2B.T.ravel(), length_2B.T.ravel(), tokens):
            _check_layout(start_2B.ravel(), length_2B.ravel(), pairs=self.pairs, tokens=tokens)
        return Spans(*on_host)


def _lies_in_order(start_S: np.ndarray, length_S: np.ndarray, tokens: int) -> bool:
    """Whether sides lie one after the other within the tokens, as pretraining's do: that is told without a sort."""
    if not len(start_S):
        return True
    if start_S.min() < 0 or start_S.max() > tokens or length_S.min() < 0 or length_S.max() > tokens:
        return False  # sums might leave int64's range
    end_S = start_S + length_S
    return bool((start_S[1:] >= end_S[:-1]).all()) and bool(end_S[-1] <= tokens)


def _check_layout(start_S: np.ndarray, length_S: np.ndarray, pairs: int, tokens: int) -> None:
    """`S` sides: the sources of all pairs, then their targets."""
    # tokens - start cannot leave int64's range where start + length can.
    outside = np.flatnonzero((start_S < 0) | (length_S < 0) | (length_S > tokens - start_S))
    if len(outside):
        raise ValueError(
            f"align: {_side(outside[0], start_S, length_S, pairs)} is outside the {tokens} tokens of hidden_TD; "
            "give flat token indices"
        )
    filled = np.flatnonzero(length_S)
    order = filled[np.argsort(start_S[filled], kind="stable")]
    clash = np.flatnonzero(start_S[order][1:] < (start_S + length_S)[order][:-1])
    if len(clash):
        first, second = order[clash[0]], order[clash[0] + 1]
        raise ValueError(
            f"align: {_side(first, start_S, length_S, pairs)} and {_side(second, start_S, length_S, pairs)} "
            "share tokens; every token belongs to one side of one pair"
        )


def _side(index: int, start_S: np.ndarray, length_S: np.ndarray, pairs: int) -> str:
    name = "source" if index < pairs else "target"
    return f"the {name} of pair {int(index) % pairs} (start {int(start_S[index])}, length {int(length_S[index])})"
