"""What the command is told about its files: which language each is in, which of its items count, and its lines.

Knows names and lines; nothing of what the lines hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.texts.lines import read_lines as lines_of_file

Item = TypeVar("Item")

_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*")
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class Slice:
    """Items `first` to `last` of a file, counted from 1; the option that said so is named in errors."""

    option: str
    first: int
    last: int

    @classmethod
    def parse(cls, option: str, text: str | None) -> Slice | None:
        """ValueError where `text` is not FIRST-LAST."""
        if text is None:
            return None
        found = _RANGE.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"{option} {text}: give FIRST-LAST, counted from 1, as in 1-700")
        return cls(option, int(found[1]), int(found[2]))

    def of(self, items: Sequence[Item], path: Path) -> list[Item]:
        """ValueError where the file has fewer items."""
        if self.last > len(items):
            raise ValueError(f"{path}: has {len(items)} items, {self.option} asks for {self.first}-{self.last}")
        return list(items[self.first - 1 : self.last])


@dataclass(frozen=True)
class TaskFile:
    """A file and its language."""

    path: Path
    language: str

    @classmethod
    def parse(cls, text: str) -> TaskFile:
        """`de=FILE`; or FILE, whose language is the last part of its name that has two letters: `test-de.tsv`, `pud.de.upos`.

        Raises:
            ValueError: no such file, or no language in its name.
        """
        language, equals, name = text.partition("=")
        if not equals or Path(text).is_file():
            language, name = "", text
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        if language and not _LANGUAGE.fullmatch(language):
            raise ValueError(f"{text}: {language!r} is no language code; write it as in de={path}")
        if not language:
            parts = [part for part in re.split(r"[-._]", path.name) if re.fullmatch("[a-z]{2}", part)]
            if not parts:
                raise ValueError(f"{path}: its name tells no language; write it before the file, as in de={path}")
            language = parts[-1]
        return cls(path, language)


def parse_tests(texts: Sequence[str]) -> list[TaskFile]:
    """The test files, by language; ValueError where two are of one language, whose predictions would share a file."""
    by_language: dict[str, TaskFile] = {}
    for text in texts:
        source = TaskFile.parse(text)
        if source.language in by_language:
            raise ValueError(
                f"{source.path}: of language {source.language}, as {by_language[source.language].path}; "
                "give one test file a language"
            )
        by_language[source.language] = source
    if not by_language:
        raise ValueError("--test: no test file; give one a language")
    return [by_language[language] for language in sorted(by_language)]


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, without their ends and without blank lines at the file's end.

    Raises:
        ValueError: no text in it, or no UTF-8; names the line.
    """
    lines = lines_of_file(path, "a file as docs/finetuning.md describes them")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: is empty")
    return lines
