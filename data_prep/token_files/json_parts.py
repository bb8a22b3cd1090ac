"""JSON files that are too large to be held: an object is parsed while it is read, and the items of one array are handed over.

Knows JSON; nothing of what it says.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

BLOCK_BYTES = 1 << 16
ITEM_END = "\n    },"  # of an array's item in `files.canonical_json` of an object that holds it
SPACE = re.compile(r"[ \t\n\r]*")


def read_in_parts(
    path: Path, array: str, take: Callable[[list[Any], dict[str, Any]], None]
) -> tuple[dict[str, Any], str]:
    """Parse a file with one JSON object, whose field `array` is given to `take` some items at a time, with the fields before.

    Returns:
        The object's fields, of which `array` is None, and the sha256 of the file's bytes, in hex.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, no object, or names a field twice.
    """
    with _Reader(path) as text:
        fields: dict[str, Any] = {}
        text.expect("{")
        while not text.ends("}", is_first=not fields):
            name = text.value()
            text.expect(":")
            if not isinstance(name, str) or name in fields:
                raise ValueError(f"field {name!r} is no name, or there twice")
            if name == array:
                fields[name] = None
                text.expect("[")
                is_first = True
                while not text.ends("]", is_first):
                    take(text.values(), fields)
                    is_first = False
            else:
                fields[name] = text.value()
        return fields, text.finish()


class _Reader:
    """A file's text, of which only what is not yet parsed is kept."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self._digest = hashlib.sha256()
        self._characters = codecs.getincrementaldecoder("utf-8")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._is_whole = "", 0, False

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _more(self) -> None:
        """Read on; as much as is held, so that what is scanned again and again at its end is not so often."""
        raw = self._file.read(max(BLOCK_BYTES, len(self._text) - self._at))
        self._digest.update(raw)
        self._is_whole = not raw
        self._text = self._text[self._at :] + self._characters.decode(raw, self._is_whole)
        self._at = 0

    def _next(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            found = SPACE.match(self._text, self._at)
            assert found is not None, "no space is a match too"
            self._at = found.end()
            if self._at < len(self._text) or self._is_whole:
                return self._text[self._at : self._at + 1]
            self._more()

    def expect(self, character: str) -> None:
        """Go past this character."""
        found = self._next()
        if found != character:
            raise ValueError(f"{character!r} expected, {found!r} found")
        self._at += 1

    def ends(self, character: str, is_first: bool) -> bool:
        """Whether an object or array ends with this character here; else go past the comma before its next item."""
        if self._next() == character:
            self._at += 1
            return True
        if not is_first:
            self.expect(",")
        return False

    def value(self) -> Any:
        """The next value, whole."""
        self._next()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                # a number at the end of what is there may go on
                if end < len(self._text) or self._is_whole:
                    self._at = end
                    return value
            except RecursionError:
                raise ValueError("is nested too deeply") from None
            except ValueError:
                if self._is_whole:
                    raise
            self._more()

    def values(self) -> list[Any]:
        """The next values of an array, as many as are there, at least one; what is behind them is a comma or the end.

        An array of the canonical form is parsed many items at a time, by a faster parser: whatever ends with a whole item is
        an array too.
        """
        self._next()
        end = self._text.rfind(ITEM_END, self._at) + len(ITEM_END) - 1
        if end >= len(ITEM_END) - 1:
            try:
                items: list[Any] = orjson.loads(f"[{self._text[self._at : end]}]")
                self._at = end
                return items
            except ValueError:
                pass  # that was the end of something else
        return [self.value()]

    def finish(self) -> str:
        """See that nothing follows; the sha256 of all bytes."""
        if found := self._next():
            raise ValueError(f"end expected, {found!r} found")
        return self._digest.hexdigest()
