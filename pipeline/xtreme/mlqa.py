"""MLQA's own comparison of answers, which knows each language's articles and how Chinese is cut into words.

By its definition in MLQA's evaluation script, v1: lower case; no punctuation of any script; no articles of the language; words
apart by spaces, but in Chinese every character of U+4E00 to U+9FA5 is a word. Other languages than MLQA's seven have none.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

_ARTICLES = {
    "ar": "ال",  # wherever it stands, also within a word: so the published pattern works
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "hi": None,
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "zh": None,
}
LANGUAGES = tuple(_ARTICLES)


@cache
def _without_punctuation() -> dict[int, None]:
    """For `str.translate`: ASCII's, and Unicode's categories P."""
    codes = {code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P")}
    return dict.fromkeys(codes | set(map(ord, string.punctuation)))


def mlqa_words(answer: str, language: str) -> list[str]:
    """Words of an answer as MLQA compares them; ValueError where the language is none of `LANGUAGES`."""
    if language not in _ARTICLES:
        raise ValueError(f"{language}: MLQA has no rules for it; it has {', '.join(LANGUAGES)}")
    text = answer.lower().translate(_without_punctuation())
    pattern = _ARTICLES[language]
    if pattern is not None:
        text = re.sub(pattern, " ", text)
    return list(_chinese_words(text)) if language == "zh" else text.split()


def _chinese_words(text: str) -> Iterator[str]:
    for run in re.findall("[\u4e00-\u9fa5]|[^\u4e00-\u9fa5]+", text):
        yield from run.split()


def mlqa_scores(answer: str, right: Sequence[str], language: str) -> tuple[float, float]:
    """(1 where the answer is one of the right ones, else 0; the best F1 of words, as bags, with one of them)."""
    words = mlqa_words(answer, language)
    others = [mlqa_words(each, language) for each in right]
    return float(words in others), max(_f1(words, each) for each in others)


def _f1(words: list[str], right: list[str]) -> float:
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right)) if common else 0.0
