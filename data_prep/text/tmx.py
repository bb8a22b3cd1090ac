"""TMX translation memories as lines: one translation unit a line, in bounded memory, with entities refused.

Knows TMX's elements; nothing of files on disk, filters or shards. The parser is expat itself: it gives the declaration
of an entity before any use of it, so that one which expands to gigabytes never does, and it builds no tree.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO
from xml.parsers import expat

from data_prep.text.readers import bad_record, skipped_record
from data_prep.text.records import BLOCK_BYTES, one_line

# Native markup of the translated document; what <hi> and unknown elements hold is text of the sentence.
CODE_ELEMENTS = frozenset({"bpt", "ept", "it", "ph", "ut"})
MAX_SEGMENT_CHARACTERS = 1 << 20
SHOWN_LANGUAGES = 20
MAX_UNIT_BYTES = 64 << 20  # a unit that is longer is not gone behind
MAX_MARKUP_BYTES = 1 << 20  # of one tag, comment or reference, which expat scans from its beginning with each block
UNIT_START, UNIT_END = re.compile(rb"<tu[\s>/]"), b"</tu>"
UNIT_START_BYTES = 4  # `<tu` and what tells it from another name
UTF_16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def tmx_lines(stream: BinaryIO, name: str, languages: tuple[str, ...]) -> Iterator[bytes]:
    """One line per translation unit: the segment of the one language, or source, tab and target.

    A language is found by prefix (`en` in `xml:lang="en-GB"`), an exact match wins, then the first. Line breaks and tabs
    become spaces, inline codes go. A unit without one of the languages becomes a skipped record, "missing_language"; one
    with a segment of more than a million characters a bad record, "oversized"; one that is no well-formed XML (a control
    character, a bare ampersand, a tag that nothing closes) a bad record, "not_well_formed".

    Raises:
        ValueError: not well-formed XML outside of a unit, another root than <tmx>, an entity, a tag or comment of more than a
            megabyte, or no unit with these languages.
    """
    units = _Units(name, languages)
    memory = _Memory(units, name)
    complete, more = 0, True
    while more:
        block = stream.read(BLOCK_BYTES)
        more = bool(block)
        memory.add(block)
        complete += sum(line[0] != 0 for line in units.lines)
        yield from units.lines
        units.lines.clear()
    if units.count and not complete:
        wanted, seen = " and ".join(languages), ", ".join(sorted(units.seen)) or "none"
        raise ValueError(f"{name}: no unit has {wanted}; its languages are {seen}: name them with --fields")


class _Memory:
    """Parses a memory block by block and, where a unit is no well-formed XML, goes on behind it.

    expat cannot go on after an error: a new parser then begins behind the unit. For that, the text since the last whole unit
    is kept.
    """

    def __init__(self, units: _Units, name: str) -> None:
        self._units, self._name = units, name
        self._encoding: str | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._kept = bytearray()  # text since the last whole unit
        self._searched = 0  # up to here it has no end of the unit in which the parser stopped
        self._lines_before = 0  # line breaks before it
        self._error: expat.ExpatError | None = None  # where the parser has stopped
        self._begin(b"")

    def _begin(self, opened: bytes) -> None:
        """A new parser, in the elements that `opened` opens."""
        parser = expat.ParserCreate(self._encoding)
        parser.buffer_text = True
        parser.Parse(opened, False)
        units = self._units
        units.begin(opened.count(b"<"), lambda: parser.CurrentByteIndex)
        parser.StartElementHandler, parser.EndElementHandler = units.start, units.end
        parser.CharacterDataHandler = units.text
        parser.EntityDeclHandler, parser.SkippedEntityHandler = units.entity, units.entity
        parser.XmlDeclHandler = self._declared
        self._parser, self._error = parser, None
        self._offset = len(opened)  # of the kept text in what the parser was given

    def _declared(self, version: str, encoding: str | None, standalone: int) -> None:
        if self._decoder is None:
            self._encoding = encoding

    def add(self, block: bytes) -> None:
        """Parse the next block, at the end an empty one."""
        is_last = not block
        block = self._as_bytes(block)
        self._kept += block
        while True:
            if self._error is None:
                try:
                    self._parser.Parse(block, is_last)
                    self._check_markup()
                    self._forget(self._units.unit_end)
                    break
                except expat.ExpatError as error:
                    self._error = error
            if not self._skip_unit(is_last):
                break
            block = bytes(self._kept)
        if self._error is None and len(self._kept) > MAX_UNIT_BYTES:
            self._forget(self._offset + len(self._kept))  # an error in this unit will be one of the memory

    def _check_markup(self) -> None:
        """Refuse markup that goes on and on: the parser waits for its end."""
        begun = max(self._parser.CurrentByteIndex, 0) - self._offset
        if len(self._kept) - begun > MAX_MARKUP_BYTES + BLOCK_BYTES:
            line = self._lines_before + self._kept.count(b"\n", 0, max(begun, 0)) + 1
            raise ValueError(
                f"{self._name}:{line}: a tag or comment of more than {MAX_MARKUP_BYTES:,} bytes; correct it or fetch it again"
            )

    def _as_bytes(self, block: bytes) -> bytes:
        """A block as it is parsed: UTF-16 (which begins with a mark) as UTF-8, so that units can be found in it."""
        if not self._offset and not self._kept and block[:2] in UTF_16 and self._decoder is None:
            self._decoder = codecs.getincrementaldecoder(UTF_16[block[:2]])("surrogatepass")
            self._encoding, block = "utf-8", block[2:]
            self._begin(b"")
        if self._decoder is None:
            return block
        try:
            # a lone surrogate becomes invalid UTF-8, and its unit a bad one
            return self._decoder.decode(block, not block).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise ValueError(f"{self._name}: ends inside a character of UTF-16; fetch it again") from None

    def _forget(self, end: int) -> None:
        """Forget the text before this byte of the parser's, the end of a unit."""
        if end > self._offset:
            self._lines_before += self._kept.count(b"\n", 0, end - self._offset)
            del self._kept[: end - self._offset]
            self._offset = end

    def _skip_unit(self, is_last: bool) -> bool:
        """Count the unit in which the parser stopped as bad and begin a new parser behind it; False: its end is yet to come.

        Raises:
            ValueError: it stopped outside of a unit, or in one without an end.
        """
        assert self._error is not None, "it has stopped"
        self._forget(self._units.unit_end)
        stopped = self._parser.ErrorByteIndex - self._offset
        # up to the place where it stopped, which may lie in the unit's own tag
        starts = [match.start() for match in UNIT_START.finditer(self._kept, 0, max(stopped, 0) + UNIT_START_BYTES)]
        end = self._kept.find(UNIT_END, max(starts[-1], self._searched)) if starts else -1
        if end < 0 and starts and not is_last and len(self._kept) <= MAX_UNIT_BYTES:
            self._searched = max(len(self._kept) - len(UNIT_END), 0)
            return False
        if end < 0:
            reason = expat.ErrorString(self._error.code)
            line = self._lines_before + self._kept.count(b"\n", 0, max(stopped, 0)) + 1
            raise ValueError(f"{self._name}:{line}: not well-formed XML ({reason}); correct it or fetch it again")
        end += len(UNIT_END)
        self._units.add(bad_record("not_well_formed", bytes(self._kept[starts[-1] : end])))
        self._lines_before += self._kept.count(b"\n", 0, end)
        del self._kept[:end]
        self._searched = 0
        self._begin(b"<tmx><body>")
        return True


class _Units:
    """The parser's handlers: collect the wanted segments of a unit and turn them into a line at its end."""

    def __init__(self, name: str, languages: tuple[str, ...]) -> None:
        self.name = name
        self.wanted = [_normal(language) for language in languages]
        self.lines: list[bytes] = []
        self.seen: set[str] = set()
        self.count = 0

    def begin(self, depth: int, position: Callable[[], int]) -> None:
        """Begin anew, inside so many elements. `position`: the parser's, in bytes."""
        self.depth, self.position = depth, position
        self.codes = self.unit_end = 0
        self.found: dict[int, tuple[int, str]] = {}
        self.oversized = False
        self.language: int | None = None
        self.parts: list[str] | None = None

    def add(self, line: bytes) -> None:
        """Count a unit, and take the line that it makes."""
        self.count += 1
        self.lines.append(line + b"\n")

    def start(self, element: str, attributes: dict[str, str]) -> None:
        if self.depth == 0 and element != "tmx":
            raise ValueError(f"{self.name}: its root is <{element}>, a translation memory's is <tmx>; give a TMX file")
        self.depth += 1
        if self.parts is not None:
            self.codes += element in CODE_ELEMENTS
        elif element == "tu":
            self.found, self.oversized = {}, False
        elif element == "tuv":
            self.language, self.rank = self._match(attributes.get("xml:lang") or attributes.get("lang") or "")
        elif element == "seg" and self.language is not None:
            self.parts, self.characters = [], 0

    def text(self, data: str) -> None:
        if self.parts is None or self.codes:
            return
        self.characters += len(data)
        if self.characters > MAX_SEGMENT_CHARACTERS:
            self.oversized = True
        else:
            self.parts.append(data)

    def end(self, element: str) -> None:
        self.depth -= 1
        if self.codes and element in CODE_ELEMENTS:
            self.codes -= 1
        elif element == "seg" and self.parts is not None:
            assert self.language is not None, "segments of other languages are not collected"
            if self.rank > self.found.get(self.language, (0, ""))[0]:
                self.found[self.language] = self.rank, "".join(self.parts)
            self.parts = None
        elif element == "tuv":
            self.language = None
        elif element == "tu":
            self.unit_end = self.position()
            self.add(self._line())

    def entity(self, name: str, *_: object) -> None:
        raise ValueError(f"{self.name}: uses the entity {name}, and entities are refused; replace it by its text")

    def _match(self, language: str) -> tuple[int | None, int]:
        """Which wanted language a variant has, and how well: 2 exactly, 1 by prefix."""
        found = _normal(language)
        if len(self.seen) < SHOWN_LANGUAGES:
            self.seen.add(language)
        ranks = [2 if found == wanted else int(found.startswith(f"{wanted}_")) for wanted in self.wanted]
        best = max(ranks)
        return (ranks.index(best), best) if best else (None, 0)

    def _line(self) -> bytes:
        if self.oversized:
            return bad_record("oversized", b"")
        if len(self.found) < len(self.wanted):
            return skipped_record("missing_language")
        sides = [one_line(self.found[side][1].encode("utf-8", "surrogatepass")) for side in range(len(self.wanted))]
        return b"\t".join(sides) if any(side.strip() for side in sides) else skipped_record("empty")


def _normal(language: str) -> str:
    return language.lower().replace("-", "_")
