"""A source's files while they are read: their text in blocks, their hashes, and whether they stay what they were.

Knows files and bytes; nothing of settings, shards or what lines hold.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import or_
from pathlib import Path

from data_prep.text.blocks import line_blocks, without_mark
from data_prep.text.frames import has_table
from data_prep.text.inputs import State, state_of
from data_prep.text.readers import BYTE_ORDER_MARK, TextFile, open_text, readable_name
from data_prep.text.spool import changed
from data_prep.text.stored import stored_identity


@dataclass(frozen=True)
class SourceFile:
    """A source's file: name without folders (the same bytes wherever it lies), size and hash as stored, hash of its text.

    The state tells whether the file is still the one that was planned (`inputs.state_of`); it leaves no trace in the output.
    """

    name: str
    bytes: int
    sha256: str
    text_sha256: str
    state: State


class SourceReading:
    """A source while it is read: its text in blocks of whole lines, and the files as they were at the beginning."""

    in_place: bool
    """Every file can be read from anywhere, as it is plain or framed."""
    starts: tuple[int, ...]
    """Where the text of each file begins, behind a byte order mark."""
    sides: list[Iterator[bytes]]
    """The blocks of each file."""

    def __init__(self, paths: Sequence[TextFile], stack: ExitStack) -> None:
        self.paths = paths
        streams = [stack.enter_context(open_text(path)) for path in paths]
        self.states = [state_of(path) for path in paths]
        plain = [isinstance(getattr(stream, "raw", None), io.FileIO) for stream in streams]
        framed = [isinstance(path, Path) and has_table(path) for path in paths]
        self.in_place = all(map(or_, plain, framed))
        self.starts, texts = zip(*map(without_mark, streams), strict=True)
        self.digests = [_Digest(BYTE_ORDER_MARK[:start] if all(plain) else b"") for start in self.starts]
        texts = tuple(digest.passing(blocks) for blocks, digest in zip(texts, self.digests, strict=True))
        if all(plain):
            # plain text is hashed as it is read, which saves reading it twice
            self.identities = [digest.identity for digest in self.digests]
        else:
            # of an archive what counts is the file as it is stored
            known = [path.identity() if not isinstance(path, Path) else stored_identity(path) for path in paths]
            self.identities = [partial(tuple[int, str], identity) for identity in known]
        self.sides = [line_blocks(blocks, path) for blocks, path in zip(texts, paths, strict=True)]

    def files(self) -> tuple[SourceFile, ...]:
        """The files' records; of plain text when all of it is read."""
        return tuple(
            SourceFile(readable_name(path.name), *identity(), digest.text_sha256(), state)
            for path, identity, digest, state in zip(
                self.paths, self.identities, self.digests, self.states, strict=True
            )
        )

    def check_unchanged(self) -> None:
        """Refuse a source that is not what it was at the beginning."""
        for path, state in zip(self.paths, self.states, strict=True):
            if state_of(path) != state:
                raise ValueError(changed(path))


class _Digest:
    """Size and sha256 of the blocks that pass through, with what stood before them and without."""

    def __init__(self, head: bytes) -> None:
        self.sha256, self.size = hashlib.sha256(head), len(head)
        self.text = hashlib.sha256() if head else self.sha256

    def passing(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """The blocks themselves."""
        for raw in blocks:
            self.sha256.update(raw)
            if self.text is not self.sha256:
                self.text.update(raw)
            self.size += len(raw)
            yield raw

    def identity(self) -> tuple[int, str]:
        """Of all that passed, and what stood before it."""
        return self.size, self.sha256.hexdigest()

    def text_sha256(self) -> str:
        """Of what passed."""
        return self.text.hexdigest()
