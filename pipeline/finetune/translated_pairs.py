"""Training pairs in other languages, which are said instead of them: xTune's augmentation `mt`.

Knows files of pairs; nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.finetune.augmentation import Augmentation
from pipeline.finetune.files.read_pairs import SentencePair, read_pairs


class Translations(Augmentation):
    """Draws a language, and takes the pair's translation there.

    files: by language, as many pairs as there are training pairs, in their order. Labels are not needed; where a file has them,
        they must be the training pairs' own.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(sorted(files.items()))
        self._pairs = {language: read_pairs(path) for language, path in self._files.items()}

    def other_item(self, number: int, item: SentencePair, draw: random.Random) -> SentencePair:
        translated = self._pairs[draw.choice(list(self._pairs))][number]
        return replace(item, first=translated.first, second=translated.second)

    def prepare(self, items: Sequence[SentencePair], tokenizer: PreTrainedTokenizerBase) -> None:
        for language, path in self._files.items():
            pairs = self._pairs[language]
            if len(pairs) != len(items):
                raise ValueError(
                    f"{path}: {len(pairs)} pairs, and there are {len(items)} to train on; give their translations line by line"
                )
            for item, pair in zip(items, pairs, strict=True):
                if pair.label not in (None, item.label):
                    raise ValueError(
                        f"{path}: line {pair.line}: label {pair.label!r}, but {item.label!r} in line {item.line} of the "
                        "training data; give their translations line by line"
                    )

    def described(self) -> dict[str, Any]:
        return {"translations": list(self._files)}
