"""What a model wants around text: the special tokens before, between and after the sides of a sequence.

Knows ids; nothing of how text becomes ids, or of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.tokenizers.special_ids import BOS, EOS


@dataclass(frozen=True)
class Frame:
    """The special tokens around one side, or around two and between them."""

    special: tuple[tuple[int, ...], ...]
    """One part more than there are sides."""
    special_types: tuple[tuple[int, ...], ...] = ()
    """Token types (BERT's segments) of `special`; empty, as `side_types` then is: the model has none."""
    side_types: tuple[int, ...] = ()
    """Token type of each side's tokens."""

    @property
    def added(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self.special))

    def around(self, *sides: Sequence[int]) -> list[int]:
        """The ids of the whole sequence."""
        ids = list(self.special[0])
        for side, after in zip(sides, self.special[1:], strict=True):
            ids += [*side, *after]
        return ids

    def types_around(self, *sides: Sequence[int]) -> list[int]:
        """The token types of `around`; nothing where there are none."""
        if not self.special_types:
            return []
        types = list(self.special_types[0])
        for side, of_side, after in zip(sides, self.side_types, self.special_types[1:], strict=True):
            types += [*[of_side] * len(side), *after]
        return types


@dataclass(frozen=True)
class Template:
    """How a model wants a sentence alone, and how a pair in one sequence."""

    alone: Frame
    pair: Frame


XLM_R = Template(Frame(((BOS,), (EOS,))), Frame(((BOS,), (EOS,), (EOS,))))
"""`<s> a </s>`, and for a pair `<s> a </s> b </s>`, as XLM-Align is pretrained."""
