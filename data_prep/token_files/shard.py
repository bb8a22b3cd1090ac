"""One published shard as the manifest lists it. A folder has up to a hundred thousand, so that each is kept small.

Knows what is said of a shard, and not what is in it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from data_prep.token_files.token_file import Kind

_ROW = struct.Struct("<8q32s32s")
_LINKS = struct.Struct("<q32s")
SUFFIXES = ("bin", "idx")
LINKS = "links"


def _number(place: int, doc: str) -> Any:
    """One of the numbers that are kept packed: as objects they would take four times the room."""
    return property(lambda self: _ROW.unpack(self._packed)[place], doc=doc)


class Shard:
    """One published shard, as its marker describes it."""

    folder: Path
    """The data folder."""
    name: str
    """Path of the shard's files below it, without suffix."""
    kind: Kind
    """Either "mono" or "pair"."""
    languages: tuple[str, ...]
    """One language, or (source, target)."""
    has_links: bool
    """Whether its pairs came with word links, which then are a file of the shard's too."""

    __slots__ = ("_links", "_packed", "folder", "has_links", "kind", "languages", "name")

    def __init__(
        self,
        folder: Path,
        name: str,
        kind: Kind,
        languages: tuple[str, ...],
        counts: dict[str, int],
        sizes: tuple[int, int],
        sha256: tuple[str, str],
        links: tuple[int, str] | None = None,
    ) -> None:
        """
        Args:
            counts: documents, sequences, tokens, max_length, and where blocks are indexed block_tokens and blocks.
            sizes: bytes of the .bin and of the .idx file.
            sha256: hex hash of each.
            links: size and hash of the .links file, if there is one.

        Raises:
            KeyError: a count is missing.
            TypeError, ValueError: one of the wrong type, or out of range.
        """
        self.folder, self.name, self.kind, self.languages = folder, name, kind, languages
        self.has_links = links is not None
        least = 2 if kind == "pair" else 1
        sequences, documents, tokens = counts["sequences"], counts["documents"], counts["tokens"]
        longest, block_tokens, blocks = counts["max_length"], counts.get("block_tokens", 0), counts.get("blocks", 0)
        if sequences < least or documents < 1 or tokens < 1 or longest < 1 or (block_tokens and blocks < 1):
            raise ValueError(f"{name} has a count below {least}, and shards without text are not listed")
        of_bin, of_idx = bytes.fromhex(sha256[0]), bytes.fromhex(sha256[1])
        if len(of_bin) != 32 or len(of_idx) != 32:
            raise ValueError("a sha256 has 64 hex digits")
        try:
            self._packed = _ROW.pack(
                documents, sequences, tokens, longest, block_tokens, blocks, *sizes, of_bin, of_idx
            )
            self._links = None if links is None else _LINKS.pack(links[0], bytes.fromhex(links[1]))
        except struct.error as error:
            raise ValueError(str(error)) from None

    documents = _number(0, "CC-100 documents, or pairs.")
    sequences = _number(1, "Sentences; twice the documents for pairs.")
    tokens = _number(2, "Ids in the shard, no specials.")
    max_length = _number(3, "Tokens of the longest sequence.")
    block_tokens = _number(4, "Size of the blocks whose places the index holds; 0: it holds none.")
    blocks = _number(5, "How many of them.")

    @property
    def stem(self) -> Path:
        """Path of the shard's files without suffix; `TokenFile(stem)` opens it."""
        return self.folder / self.name

    @property
    def key(self) -> str:
        """The language, or "source-target" for pairs."""
        return "-".join(self.languages)

    @property
    def bytes(self) -> dict[str, int]:
        """Size of each of its files, by suffix."""
        sizes = dict(zip(SUFFIXES, _ROW.unpack(self._packed)[6:8], strict=True))
        return sizes if self._links is None else {**sizes, LINKS: _LINKS.unpack(self._links)[0]}

    @property
    def sha256(self) -> dict[str, str]:
        """Hash of each of its files, in hex."""
        hashes = dict(zip(SUFFIXES, _ROW.unpack(self._packed)[8:], strict=True))
        if self._links is not None:
            hashes[LINKS] = _LINKS.unpack(self._links)[1]
        return {suffix: digest.hex() for suffix, digest in hashes.items()}
