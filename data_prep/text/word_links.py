"""Word links of pairs as aligners and annotators write them, in Pharaoh's format: a line a pair, `0-0 1-2 …`, words from 0.

Knows lines and words, which white space separates; nothing of tokens.
"""

from __future__ import annotations

import re

from data_prep.text.blocks import unusable
from data_prep.text.readers import TextFile, split_lines

# with a score behind it, which some aligners write and nobody reads here
_LINK = re.compile(rb"(\d{1,9})([-sSpP?x])(\d{1,9})(?:[:/][-+.\deE]+)?")
_SURE = b"-sS"
_SHOWN = 40
POSSIBLE = "possible_links"
"""The reason under which links are counted that annotators were not sure of, `ipj`: nothing is learned from them."""


def parse_links(raw: bytes) -> tuple[list[tuple[int, int]], int]:
    """The sure links of a line, (source word, target word), ascending and each once; and how many possible ones it has.

    Raises:
        ValueError: one of its words is no link.
    """
    sure, possible = set(), 0
    for word in raw.split():
        match = _LINK.fullmatch(word)
        if match is None:
            raise ValueError(f"{word[:_SHOWN].decode(errors='replace')!r} is no link; write `i-j`, words from 0")
        if match[2] in _SURE:
            sure.add((int(match[1]), int(match[3])))
        else:
            possible += 1
    return sorted(sure), possible


def check_links(paths: tuple[TextFile, ...], texts: tuple[bytes, ...], first_line: int) -> None:
    """See that the next lines of a source's three files, source, target and links, go together; they begin at `first_line`.

    Lines that are no usable text are told of elsewhere.

    Raises:
        ValueError: what is no link, or one beyond its sentence; names file, line and value.
    """
    for line, lines in enumerate(zip(*map(split_lines, texts), strict=True), start=first_line):
        if any(unusable(raw, ()) for raw in lines):
            continue
        try:
            _check_line(*lines)
        except ValueError as error:
            raise ValueError(f"{paths[2]}:{line}: {error}") from None


def _check_line(source: bytes, target: bytes, raw: bytes) -> None:
    links, _ = parse_links(raw)
    for side, (name, text) in enumerate((("source", source), ("target", target))):
        words, last = len(text.split()), max((link[side] for link in links), default=-1)
        if last >= words:
            link = next(link for link in links if link[side] == last)
            raise ValueError(
                f"{link[0]}-{link[1]} links word {last} of the {name}, which has {words}; give the links of this text, a line "
                "a pair, words by white space and counted from 0"
            )
