"""Sentences in which some words are in other languages, by bilingual dictionaries: xTune's augmentation `cs`.

Knows words and dictionaries; nothing of tasks or models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.finetune.files.inputs import read_lines

Dictionary = Mapping[str, Sequence[str]]
"""Translations of words in lower case."""


def read_dictionary(path: Path) -> dict[str, list[str]]:
    """A dictionary as MUSE publishes them: an English word and its translation a line, apart by a space or a tab.

    Raises:
        ValueError: there is no such file, it is empty, or a line is no two words; names it.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        words = line.split("\t") if "\t" in line else line.split(" ")
        words = [word for word in words if word]
        if len(words) != 2:
            raise ValueError(f"{path}:{number}: {line!r} is not a word and its translation, a space or a tab apart")
        found.setdefault(words[0].lower(), []).append(words[1])
    return found


class CodeSwitcher:
    """Draws for each word whether it is to be switched, then a language, and where that has the word, a translation.

    dictionaries: by language.
    share: of the words that are to be switched; fewer are, since dictionaries lack words.
    """

    def __init__(self, dictionaries: Mapping[str, Dictionary], share: float) -> None:
        self._languages = sorted(dictionaries)
        self._dictionaries = [dictionaries[language] for language in self._languages]
        self._share = share

    def described(self) -> dict[str, Any]:
        """For the record."""
        return {"switch_share": self._share, "languages": self._languages}

    def switch(self, words: Sequence[str], draw: random.Random) -> list[str]:
        """As many words, some of them translated."""
        return [self._word(word, draw) for word in words]

    def _word(self, word: str, draw: random.Random) -> str:
        if draw.random() >= self._share:
            return word
        translations = draw.choice(self._dictionaries).get(word.lower())
        return draw.choice(translations) if translations else word
