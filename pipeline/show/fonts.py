"""Fonts for words of any script: those of the machine that have the characters. Knows characters and font files only."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

USUAL = "DejaVu Sans"
"""Comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more."""
_LAST_RESORT = "lastresort"
"""Part of the file name of matplotlib's font of boxes, which has every character and no script."""
_NOT_DRAWN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp")


class MissingFontsError(ValueError):
    """No font of this machine has some of the characters; tells which scripts they belong to, and what to install."""


@contextmanager
def drawn_as_they_are(texts: Iterable[str]) -> Iterator[None]:
    """Within the block matplotlib draws these texts letter by letter: fonts for every script, `$` and `_` without meaning.

    Raises:
        MissingFontsError: see there.
    """
    with matplotlib.rc_context({"font.family": _families(set("".join(texts))), "text.parse_math": False}):
        yield


def _families(characters: set[str]) -> list[str]:
    """Names of fonts that have all these characters together: the usual one, then as few others as it takes."""
    missing = {letter for letter in characters if unicodedata.category(letter) not in _NOT_DRAWN}
    missing -= {letter for letter in missing if ord(letter) in _characters(_path_of_usual())}
    families = [USUAL]
    while missing:
        path, found = max(((path, _found(missing, path)) for path in _font_files()), key=lambda pair: len(pair[1]))
        if not found:
            raise MissingFontsError(
                f"no font on this machine has {_examples(missing)}; install fonts with these scripts (on Debian: "
                "apt-get install fonts-noto-core fonts-noto-cjk), or write an .html file, which the browser's fonts draw"
            )
        font_manager.fontManager.addfont(path)
        families.append(font_manager.FontProperties(fname=path).get_name())
        missing -= found
    return families


def _found(letters: set[str], path: str) -> set[str]:
    return {letter for letter in letters if ord(letter) in _characters(path)}


def _examples(letters: set[str]) -> str:
    """One character of each script, by name."""
    scripts = {unicodedata.name(letter, "?").split(" ")[0].split("-")[0]: letter for letter in sorted(letters)}
    return ", ".join(f"{letter} ({script.capitalize()})" for script, letter in list(scripts.items())[:5])


def _path_of_usual() -> str:
    return font_manager.findfont(USUAL, fallback_to_default=False)


@cache
def _font_files() -> tuple[str, ...]:
    """The machine's font files, upright and of usual weight first; asked of the system, as matplotlib's own list may be old."""
    paths = [path for path in font_manager.findSystemFonts() if _LAST_RESORT not in path.lower()]
    if not paths:
        return (_path_of_usual(),)
    return tuple(sorted(paths, key=lambda path: ("Regular" not in path, "Sans" not in path, len(path), path)))


@cache
def _characters(path: str) -> frozenset[int]:
    """Code points of a font's glyphs; none where the file cannot be read as a font."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()
