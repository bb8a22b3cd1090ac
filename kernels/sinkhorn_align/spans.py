"""Where the sides of the pairs lie in the flat batch, checked before any backend reads them.

It knows tokens by their index only.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_INTEGERS = (torch.int32, torch.int64)


@dataclass(frozen=True)
class Spans:
    """The sides of B pairs, as int64 [B] vectors on the CPU (loops and buckets read lengths there)."""

    source_start_B: Tensor
    source_length_B: Tensor
    target_start_B: Tensor
    target_length_B: Tensor

    def __len__(self) -> int:
        return len(self.source_start_B)

    @classmethod
    def checked(
        cls,
        source_start_B: Tensor,
        source_length_B: Tensor,
        target_start_B: Tensor,
        target_length_B: Tensor,
        tokens: int,
    ) -> "Spans":
        """Raises ValueError unless every side lies within `tokens` and no two sides share a token."""
        vectors = {
            "source_start_B": source_start_B,
            "source_length_B": source_length_B,
            "target_start_B": target_start_B,
            "target_length_B": target_length_B,
        }
        for name, vector in vectors.items():
            if vector.dim() != 1 or len(vector) != len(source_start_B) or vector.dtype not in _INTEGERS:
                raise ValueError(
                    f"align: {name} is {vector.dtype} {list(vector.shape)}, "
                    f"it must be int32 [{len(source_start_B)}] like source_start_B"
                )
        on_host = torch.stack([vector.to(torch.int64) for vector in vectors.values()]).cpu()
        start_S, length_S = on_host[0::2].flatten(), on_host[1::2].flatten()
        _check_layout(start_S, length_S, pairs=len(source_start_B), tokens=tokens)
        return cls(*on_host)


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
