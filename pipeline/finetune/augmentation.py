"""Ways to say an item otherwise: what xTune's consistency compares it with. Knows words, pieces and draws; nothing of models.

What is drawn is a function of (seed, epoch, row, view) alone: whatever the batches are, a row is said otherwise likewise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.finetune.code_switching import CodeSwitcher

Pieces = list[int]
Encode = Callable[[Sequence[str]], list[Pieces]]
"""The task's way from words to the ids of their pieces, each word by itself."""


def draw_of(seed: int, epoch: int, row: int, view: str) -> random.Random:
    """Where all draws of a view come from; seed: the training's, epoch and row: counted from 0."""
    return random.Random(f"augmentation {seed} {epoch} {row} {view}")  # noqa: S311 (nothing is secret)


class Augmentation:
    """What it may change: words, the embeddings, or the item; each leaves the others as they are."""

    spread: float = 0.0
    """Standard deviation of what is added to the embeddings."""
    translates: bool = False
    """Whether a word may become another one: then an answer with it would be another answer."""

    def changes(self, words: Sequence[str], draw: random.Random, encode: Encode) -> dict[int, Pieces]:
        """The words that are others now, or are cut otherwise, by their number: their pieces."""
        return {}

    def other_item(self, number: int, item: Any, draw: random.Random) -> Any:
        """What is said instead of the training item of this number."""
        return item

    def prepare(self, items: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> None:
        """Take what it needs of the training items and the model's tokenizer; ValueError where it is not of them."""

    def described(self) -> dict[str, Any]:
        """For the record."""
        raise NotImplementedError


class CodeSwitching(Augmentation):
    """`cs`: words in other languages, by dictionaries."""

    translates = True

    def __init__(self, switcher: CodeSwitcher) -> None:
        self._switcher = switcher

    def changes(self, words: Sequence[str], draw: random.Random, encode: Encode) -> dict[int, Pieces]:
        found = self._switcher.switch(words, draw)
        switched = [number for number, word in enumerate(words) if found[number] != word]
        return dict(zip(switched, encode([found[number] for number in switched]), strict=True)) if switched else {}

    def described(self) -> dict[str, Any]:
        return self._switcher.described()


class Noise(Augmentation):
    """`gn`: Gaussian noise on the embeddings of a row's tokens, drawn where the model is."""

    def __init__(self, spread: float) -> None:
        self.spread = spread

    def described(self) -> dict[str, Any]:
        return {"noise": self.spread}
