"""Names, families and scripts of XTREME's languages, and what they are for.

Indo-European is told by its branches, and scripts of Indian descent but Devanagari are one, Brahmic. Cross-lingual people read
a table by them, and the transfer gap: how much is lost on the way from English.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import mean
from typing import NamedTuple

from pipeline.xtreme.catalog import ENGLISH


class Kin(NamedTuple):
    """What a language is called, and where it belongs."""

    name: str
    iso_639_3: str
    """Of the variety that Tatoeba has: Mandarin, Western Persian."""
    family: str
    script: str


LANGUAGES: dict[str, Kin] = {
    "af": Kin("Afrikaans", "afr", "Germanic", "Latin"),
    "ar": Kin("Arabic", "ara", "Afro-Asiatic", "Arabic"),
    "bg": Kin("Bulgarian", "bul", "Slavic", "Cyrillic"),
    "bn": Kin("Bengali", "ben", "Indo-Aryan", "Brahmic"),
    "de": Kin("German", "deu", "Germanic", "Latin"),
    "el": Kin("Greek", "ell", "Greek", "Greek"),
    "en": Kin("English", "eng", "Germanic", "Latin"),
    "es": Kin("Spanish", "spa", "Romance", "Latin"),
    "et": Kin("Estonian", "est", "Uralic", "Latin"),
    "eu": Kin("Basque", "eus", "Basque", "Latin"),
    "fa": Kin("Persian", "pes", "Iranian", "Arabic"),
    "fi": Kin("Finnish", "fin", "Uralic", "Latin"),
    "fr": Kin("French", "fra", "Romance", "Latin"),
    "he": Kin("Hebrew", "heb", "Afro-Asiatic", "Hebrew"),
    "hi": Kin("Hindi", "hin", "Indo-Aryan", "Devanagari"),
    "hu": Kin("Hungarian", "hun", "Uralic", "Latin"),
    "id": Kin("Indonesian", "ind", "Austronesian", "Latin"),
    "it": Kin("Italian", "ita", "Romance", "Latin"),
    "ja": Kin("Japanese", "jpn", "Japonic", "Japanese"),
    "jv": Kin("Javanese", "jav", "Austronesian", "Latin"),
    "ka": Kin("Georgian", "kat", "Kartvelian", "Georgian"),
    "kk": Kin("Kazakh", "kaz", "Turkic", "Cyrillic"),
    "ko": Kin("Korean", "kor", "Koreanic", "Hangul"),
    "ml": Kin("Malayalam", "mal", "Dravidian", "Brahmic"),
    "mr": Kin("Marathi", "mar", "Indo-Aryan", "Devanagari"),
    "ms": Kin("Malay", "msa", "Austronesian", "Latin"),
    "my": Kin("Burmese", "mya", "Sino-Tibetan", "Brahmic"),
    "nl": Kin("Dutch", "nld", "Germanic", "Latin"),
    "pt": Kin("Portuguese", "por", "Romance", "Latin"),
    "ru": Kin("Russian", "rus", "Slavic", "Cyrillic"),
    "sw": Kin("Swahili", "swh", "Niger-Congo", "Latin"),
    "ta": Kin("Tamil", "tam", "Dravidian", "Brahmic"),
    "te": Kin("Telugu", "tel", "Dravidian", "Brahmic"),
    "th": Kin("Thai", "tha", "Kra-Dai", "Brahmic"),
    "tl": Kin("Tagalog", "tgl", "Austronesian", "Latin"),
    "tr": Kin("Turkish", "tur", "Turkic", "Latin"),
    "ur": Kin("Urdu", "urd", "Indo-Aryan", "Arabic"),
    "vi": Kin("Vietnamese", "vie", "Austro-Asiatic", "Latin"),
    "yo": Kin("Yoruba", "yor", "Niger-Congo", "Latin"),
    "zh": Kin("Chinese", "cmn", "Sino-Tibetan", "Chinese"),
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
