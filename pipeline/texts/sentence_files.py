"""Line-aligned sentences of several languages, in the layouts in which they are published: PUD, Tatoeba, FLORES, NTREX.

Knows names of files and their lines; nothing of what is done with the sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.texts.lines import read_lines

PIVOTS = ("en", "eng", "eng_Latn")
"""The language that all others are paired with in a set of files, a file a language, where it is there."""
LAYOUTS = (
    "<name>.<language> (PUD), <a>-<b>.<a> and <a>-<b>.<b> (Tatoeba), <language>.devtest (FLORES) "
    "or newstest….<language>.txt (NTREX)"
)

_PAIR_FILE = re.compile(r"(?:.*\.)?(?P<first>[^.-]+)-(?P<second>[^.-]+)\.(?P<language>[^.-]+)")
_FLORES = re.compile(r"(?P<language>[a-z]{3}(?:_[A-Z][a-z]{3})?)\.(?P<set>dev|devtest)")
_NTREX = re.compile(r"(?P<set>newstest\d+)-(?:src|ref)\.(?P<language>[^.]+)\.txt")
_PUD = re.compile(r"(?P<set>.+)\.(?P<language>(?!txt$)[^.]+)")


@dataclass
class Sentences:
    """Line-aligned sentences of two languages."""

    languages: tuple[str, str]
    paths: tuple[Path, Path]
    texts: tuple[list[str], list[str]] | None = None
    """What the files hold, where they need not be read again."""

    @property
    def name(self) -> str:
        return "-".join(self.languages)

    def loaded(self, most: int) -> Sentences:
        """With the first `most` sentences in memory. Raises as `read` does."""
        first, second = self.read()
        return replace(self, texts=(first[:most], second[:most]))

    def read(self) -> tuple[list[str], list[str]]:
        """ValueError where a file is missing, empty, no UTF-8, or the two have unequal lines."""
        if self.texts is not None:
            return self.texts
        first, second = (_lines(path) for path in self.paths)
        if len(first) != len(second):
            raise ValueError(
                f"{self.paths[0]}: {len(first)} lines, {self.paths[1]} has {len(second)}; "
                "line n of one must be the translation of line n of the other"
            )
        return first, second


def find_pairs(*places: Path) -> list[Sentences]:
    """The language pairs of folders and files, each once, in their order.

    A folder stands for all of its pairs. Where there is a file a language, all line-aligned (PUD, FLORES, NTREX), those are
    English (or the first language) with every other; else the two files of each pair (Tatoeba). A file stands for its
    pair alone, and several files of one set for the pairs among them.

    Raises:
        ValueError: there is no such place, or it has no such files; or a file alone is the one that all pairs share.
    """
    folders: dict[Path, list[Path]] = {}
    for place in places:
        if not place.exists():
            raise ValueError(f"{place}: no such file or folder; give line-aligned files: {LAYOUTS}")
        folders.setdefault(place if place.is_dir() else place.parent, []).append(place)
    found: dict[tuple[Path, Path], Sentences] = {}
    for folder, given in folders.items():
        named = None if folder in given else given
        for pair in _pairs_of_folder(folder, named):
            found.setdefault(pair.paths, pair)
    return list(found.values())


def _pairs_of_folder(folder: Path, named: Sequence[Path] | None) -> list[Sentences]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.count(".") >= 1)
    pairs = list(_two_files_a_pair(files))
    sets = {} if pairs else _a_file_a_language(files)
    if named is None:
        pairs += [pair for languages in sets.values() for pair in _with_pivot(languages, languages)]
        if not pairs:
            raise ValueError(f"{folder}: no line-aligned files; name them {LAYOUTS}")
        return pairs
    pairs = [pair for pair in pairs if any(path in pair.paths for path in named)]
    for languages in sets.values():
        pairs += _among(languages, [language for language, path in languages.items() if path in named])
    for path in named:
        if not any(path in pair.paths for pair in pairs):
            raise ValueError(f"{path}: no line-aligned file in another language beside it; name them {LAYOUTS}")
    return pairs


def _two_files_a_pair(files: Sequence[Path]) -> Iterator[Sentences]:
    present = set(files)
    for path in files:
        match = _PAIR_FILE.fullmatch(path.name)
        if match is None or match["language"] != match["first"]:
            continue
        other = path.with_suffix(f".{match['second']}")
        if other in present:
            yield Sentences((match["first"], match["second"]), (path, other))


def _a_file_a_language(files: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """The files of every set with two languages or more, by language."""
    sets: dict[str, dict[str, Path]] = {}
    for path in files:
        match = next(filter(None, (layout.fullmatch(path.name) for layout in (_FLORES, _NTREX, _PUD))), None)
        if match is not None:
            sets.setdefault(match["set"], {})[match["language"]] = path
    return {name: dict(sorted(languages.items())) for name, languages in sets.items() if len(languages) > 1}


def _among(languages: dict[str, Path], named: Sequence[str]) -> list[Sentences]:
    """The pairs that the named languages of a set stand for."""
    if len(named) == 1 and named[0] == _pivot(languages):
        other = next(path for language, path in languages.items() if language != named[0])
        raise ValueError(
            f"{languages[named[0]]}: {len(languages) - 1} pairs have this file; name the other language's too "
            f"(as {other.name}), or the folder for all of them"
        )
    return _with_pivot(languages, named)


def _with_pivot(languages: dict[str, Path], chosen: Iterable[str]) -> list[Sentences]:
    """The pivot with every chosen language; where several are chosen, the pivot is one of them."""
    chosen = list(chosen)
    pivot = _pivot(chosen) if len(chosen) > 1 else _pivot(languages)
    return [
        Sentences((pivot, language), (languages[pivot], languages[language]))
        for language in chosen
        if language != pivot
    ]


def _pivot(languages: Iterable[str]) -> str:
    languages = list(languages)
    return next((name for name in PIVOTS if name in languages), min(languages))


def _lines(path: Path) -> list[str]:
    lines = read_lines(path, "a sentence a line")
    if not lines:
        raise ValueError(f"{path}: is empty; give a sentence a line")
    return lines
