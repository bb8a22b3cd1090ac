"""Archives that can be read from anywhere: independent zstd frames, and a table at the end of where each of them begins.

The layout is zstd's seekable format, version 0.1.0 of its specification (contrib/seekable_format in zstd's repository): one
skippable frame after all others, little-endian, for F frames
    uint32 0x184D2A5E · uint32 size of what follows · F × (uint32 stored bytes, uint32 bytes of text, uint32 checksum if
    flagged) · uint32 F · uint8 flags (bit 7: checksums) · uint32 0x8F92EAB1
so that every zstd reads the file as one text. `rechunk` writes such files. Knows bytes; nothing of lines, plans or shards.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_prep.text.compression import BUFFER_BYTES
from data_prep.text.readers import decompressed

SUFFIX = ".zst"
SKIPPABLE = struct.Struct("<II")
FOOTER = struct.Struct("<IBI")
SKIPPABLE_MAGIC, SEEKABLE_MAGIC = 0x184D2A5E, 0x8F92EAB1
CHECKSUMS, RESERVED = 0x80, 0x7C
MEND = "write it again with `python -m data_prep rechunk`"


@dataclass(frozen=True)
class FrameTable:
    """Where the F frames of a file begin, and its end: int64 (F+1,) in the file as stored, and in its text."""

    stored_F1: NDArray[np.int64]
    text_F1: NDArray[np.int64]

    def before(self, position: int) -> tuple[int, int]:
        """The frame that holds this byte of the text: where it begins in the file and in the text."""
        frame = max(int(np.searchsorted(self.text_F1, position, side="right")) - 1, 0)
        return int(self.stored_F1[frame]), int(self.text_F1[frame])


def read_table(file: BinaryIO | io.FileIO, path: Path) -> FrameTable | None:
    """The table of an open file, None where it ends without one; the file's position is lost.

    Raises:
        ValueError: the table does not describe this file.
    """
    size = file.seek(0, os.SEEK_END)
    if path.suffix.lower() != SUFFIX or size < SKIPPABLE.size + FOOTER.size:
        return None
    file.seek(size - FOOTER.size)
    frames, flags, magic = FOOTER.unpack(file.read(FOOTER.size))
    if magic != SEEKABLE_MAGIC:
        return None
    columns = 3 if flags & CHECKSUMS else 2
    body = 4 * columns * frames + FOOTER.size
    start = size - SKIPPABLE.size - body
    if start >= 0 and not flags & RESERVED:
        file.seek(start)
        raw = file.read(SKIPPABLE.size + body - FOOTER.size)
        sizes_FC = np.frombuffer(raw[SKIPPABLE.size :], dtype="<u4").reshape(frames, columns).astype(np.int64)
        stored_F1, text_F1 = (np.concatenate([[0], np.cumsum(sizes_FC[:, column])]) for column in (0, 1))
        if SKIPPABLE.unpack(raw[: SKIPPABLE.size]) == (SKIPPABLE_MAGIC, body) and stored_F1[-1] == start:
            return FrameTable(stored_F1, text_F1)
    raise ValueError(f"{path}: its table of frames is damaged or of another file; {MEND}")


def has_table(path: Path) -> bool:
    """Whether reading a local file can begin anywhere in it although it is compressed."""
    with open(path, "rb", buffering=0) as file:
        return read_table(file, path) is not None


def open_at(file: io.FileIO, path: Path, position: int) -> BinaryIO | io.FileIO:
    """The text of an open file, plain or of frames with a table, from this byte of the text on."""
    table = read_table(file, path)
    if table is None:
        file.seek(position)
        return file
    stored, text = table.before(position)
    file.seek(stored)
    stream = io.BufferedReader(decompressed(file, path), BUFFER_BYTES)
    while text < position and (skipped := stream.read(min(BUFFER_BYTES, position - text))):
        text += len(skipped)
    return stream
