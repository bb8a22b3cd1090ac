"""What the names of files say of their languages, against what the user says.

Knows names only. They are habits and no rules: only names that leave no doubt refuse anything.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from data_prep.text.compression import uncompressed_name

# ISO 639-1
CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu iw ja jv ka
kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl
nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw
ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
LANGUAGES = frozenset(re.findall("[a-z]+", CODES))
PAIR = re.compile(r"(?<![A-Za-z])([a-z]{2,3})[-_]([a-z]{2,3})(?![A-Za-z])")


def language_of(name: str) -> str | None:
    """The language that a file's name ends in (`train.de.gz`, `x.pt_BR`), without subtags; None where it names none."""
    suffix = PurePosixPath(uncompressed_name(name)).suffix[1:].lower()
    base = re.split("[-_]", suffix)[0]
    return base if base in LANGUAGES else None


def pairs_in(name: str) -> set[tuple[str, str]]:
    """The language pairs that a name holds, as `WikiMatrix.de-en.tsv.gz`."""
    return {pair for pair in PAIR.findall(name) if set(pair) <= LANGUAGES}


def note_language(name: str, language: str, option: str) -> None:
    """Say where a name speaks of another language than the user."""
    found = language_of(name)
    if found and found != language.split("_")[0]:
        print(f"note: {name}: taken as {option} {language}, its name says {found}", file=sys.stderr)


def check_sides(locations: Sequence[str], kind: str, languages: tuple[str, str]) -> None:
    """Refuse files whose names say that source and target are swapped; say where a name speaks of another language.

    Args:
        locations: of the two files of a Moses pair (kind "text"), or of the one that holds pairs in columns ("tsv"). In other
            kinds sides have names of their own.

    Raises:
        ValueError: the names say so, all of them.
    """
    source, target = (language.split("_")[0] for language in languages)
    if source == target:
        return
    pair, names = "-".join(languages), [PurePosixPath(location).name for location in locations]
    swapped = f"{languages[1]}-{languages[0]}"
    if kind == "text":
        if _languages_apart(locations, (source, target)) == ({target}, {source}):
            raise ValueError(
                f"{locations[0]} {locations[1]} --pair {pair}: by their names source and target are swapped; give the files in "
                f"the other order, or --pair {swapped}; if the names mislead, say so with --trust-order"
            )
        for name, language in zip(names, languages, strict=True):
            note_language(name, language, f"--pair {pair}:")
    elif kind == "tsv":
        found_pairs = pairs_in(names[0])
        if (target, source) in found_pairs and (source, target) not in found_pairs:
            raise ValueError(
                f"{names[0]} --pair {pair}: its name says {target}-{source}; give --pair {swapped}, or name the columns in "
                f"their order with --columns and --trust-order"
            )


def _languages_apart(locations: Sequence[str], languages: tuple[str, str]) -> tuple[set[str], set[str]]:
    """Which of the languages each of two paths names more often than the other, as `de/x.txt` and `en/x.txt`, or
    `x.de-en.de` and `x.de-en.en`."""
    counts = [Counter(re.findall("[a-z]+", location.lower())) for location in locations]
    more = [
        {language for language in languages if own[language] > other[language]} for own, other in (counts, counts[::-1])
    ]
    return more[0], more[1]
