"""Families and scripts of XTREME's languages, and what they are for.

Indo-European is told by its branches, and scripts of Indian descent but Devanagari are one, Brahmic. Cross-lingual people read
a table by them, and the transfer gap: how much is lost on the way from English.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import mean
from typing import NamedTuple

from pipeline.xtreme.catalog import ENGLISH


class Kin(NamedTuple):
    """Where a language belongs."""

    family: str
    script: str


LANGUAGES: dict[str, Kin] = {
    "af": Kin("Germanic", "Latin"),
    "ar": Kin("Afro-Asiatic", "Arabic"),
    "bg": Kin("Slavic", "Cyrillic"),
    "bn": Kin("Indo-Aryan", "Brahmic"),
    "de": Kin("Germanic", "Latin"),
    "el": Kin("Greek", "Greek"),
    "en": Kin("Germanic", "Latin"),
    "es": Kin("Romance", "Latin"),
    "et": Kin("Uralic", "Latin"),
    "eu": Kin("Basque", "Latin"),
    "fa": Kin("Iranian", "Arabic"),
    "fi": Kin("Uralic", "Latin"),
    "fr": Kin("Romance", "Latin"),
    "he": Kin("Afro-Asiatic", "Hebrew"),
    "hi": Kin("Indo-Aryan", "Devanagari"),
    "hu": Kin("Uralic", "Latin"),
    "id": Kin("Austronesian", "Latin"),
    "it": Kin("Romance", "Latin"),
    "ja": Kin("Japonic", "Japanese"),
    "jv": Kin("Austronesian", "Latin"),
    "ka": Kin("Kartvelian", "Georgian"),
    "kk": Kin("Turkic", "Cyrillic"),
    "ko": Kin("Koreanic", "Hangul"),
    "ml": Kin("Dravidian", "Brahmic"),
    "mr": Kin("Indo-Aryan", "Devanagari"),
    "ms": Kin("Austronesian", "Latin"),
    "my": Kin("Sino-Tibetan", "Brahmic"),
    "nl": Kin("Germanic", "Latin"),
    "pt": Kin("Romance", "Latin"),
    "ru": Kin("Slavic", "Cyrillic"),
    "sw": Kin("Niger-Congo", "Latin"),
    "ta": Kin("Dravidian", "Brahmic"),
    "te": Kin("Dravidian", "Brahmic"),
    "th": Kin("Kra-Dai", "Brahmic"),
    "tl": Kin("Austronesian", "Latin"),
    "tr": Kin("Turkic", "Latin"),
    "ur": Kin("Indo-Aryan", "Arabic"),
    "vi": Kin("Austro-Asiatic", "Latin"),
    "yo": Kin("Niger-Congo", "Latin"),
    "zh": Kin("Sino-Tibetan", "Chinese"),
}


def by_kin(scores: Mapping[str, float], of: Callable[[Kin], str]) -> dict[str, float]:
    """Mean score of the languages of each family or script, English left out: it is what is transferred from."""
    groups: dict[str, list[float]] = {}
    for language, value in scores.items():
        if language != ENGLISH:
            groups.setdefault(of(LANGUAGES[language]), []).append(value)
    return {name: mean(values) for name, values in sorted(groups.items())}


def transfer_gap(scores: Mapping[str, float]) -> float | None:
    """English minus the mean of the others; None where either is missing."""
    others = [value for language, value in scores.items() if language != ENGLISH]
    return scores[ENGLISH] - mean(others) if others and ENGLISH in scores else None
