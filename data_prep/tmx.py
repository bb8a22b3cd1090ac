"""TMX translation memories as lines: one translation unit a line, in bounded memory, with entities refused.

Knows TMX's elements; nothing of files on disk, filters or shards. The parser is expat itself: it gives the declaration
of an entity before any use of it, so that one which expands to gigabytes never does, and it builds no tree.
"""

from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from data_prep.readers import bad_record, skipped_record
from data_prep.records import BLOCK_BYTES, one_line

# Native markup of the translated document; what <hi> and unknown elements hold is text of the sentence.
CODE_ELEMENTS = frozenset({"bpt", "ept", "it", "ph", "ut"})
MAX_SEGMENT_CHARACTERS = 1 << 20
SHOWN_LANGUAGES = 20


def tmx_lines(stream: BinaryIO, name: str, languages: tuple[str, ...]) -> Iterator[bytes]:
    """One line per translation unit: the segment of the one language, or source, tab and target.

    A language is found by prefix (`en` in `xml:lang="en-GB"`), an exact match wins, then the first. Line breaks and tabs
    become spaces, inline codes go. A unit without one of the languages becomes a skipped record, "missing_language"; one
    with a segment of more than a million characters a bad record, "oversized".

    Raises:
        ValueError: not well-formed XML, another root than <tmx>, an entity, or no unit with these languages.
    """
    units = _Units(name, languages)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = units.start, units.end
    parser.CharacterDataHandler = units.text
    parser.EntityDeclHandler, parser.SkippedEntityHandler = units.entity, units.entity
    complete, more = 0, True
    while more:
        block = stream.read(BLOCK_BYTES)
        more = bool(block)
        try:
            parser.Parse(block, not more)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise ValueError(
                f"{name}:{error.lineno}: not well-formed XML ({reason}); mend it or fetch it again"
            ) from None
        complete += sum(line[0] != 0 for line in units.lines)
        yield from units.lines
        units.lines.clear()
    if units.count and not complete:
        wanted, seen = " and ".join(languages), ", ".join(sorted(units.seen)) or "none"
        raise ValueError(f"{name}: no unit has {wanted}; its languages are {seen}: name them with --fields")


class _Units:
    """The parser's handlers: collect the wanted segments of a unit and turn them into a line at its end."""

    def __init__(self, name: str, languages: tuple[str, ...]) -> None:
        self.name = name
        self.wanted = [_normal(language) for language in languages]
        self.lines: list[bytes] = []
        self.seen: set[str] = set()
        self.count = self.depth = self.codes = 0
        self.found: dict[int, tuple[int, str]] = {}
        self.oversized = False
        self.language: int | None = None
        self.parts: list[str] | None = None

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
            self.count += 1
            self.lines.append(self._line() + b"\n")

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
