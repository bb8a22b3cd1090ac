"""The compressed formats that text may come in: .xz, .gz, .bz2 and .zst, read to the last byte.

An archive may be several streams one after the other. Each byte of the file is part of a stream or of padding that the format
allows; whatever else is there is an error, and so is a stream without its end. Knows bytes only.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Protocol, cast

import psutil
import zstandard

BUFFER_BYTES = 1 << 20
STEP_BYTES = 1 << 16  # compressed bytes handed over at a time: what follows a short stream is copied once per stream
HEAD_BYTES = 18  # a zstd frame's header at its longest
LARGEST_WINDOW = 1 << 31
XZ_MEMORY = 512 << 20  # to decode with; `xz -9`, the largest preset, takes 65 MiB
CGROUP_MEMORY = Path("/sys/fs/cgroup")
MEBIBYTE = 1 << 20


class DamagedArchiveError(Exception):
    """An archive that is not what its format demands; the message says where."""


class WindowTooLargeError(Exception):
    """An archive that takes more memory to read than there is."""


class _Decoder(Protocol):
    """What reads one stream, in the manner of `bz2.BZ2Decompressor`."""

    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)  # one member, its checksum and its size

    eof = property(lambda self: self._inner.eof)
    unused_data = property(lambda self: self._inner.unused_data)
    needs_input = property(lambda self: not self._inner.unconsumed_tail)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Zstd:
    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).decompressobj()

    needs_input = True
    eof = property(lambda self: self._inner.eof)
    unused_data = property(lambda self: self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(data)  # the library knows no largest length


@dataclass(frozen=True)
class _Format:
    """A compressed format: how its streams begin, a multiple of how many zero bytes may stand between and after them (0:
    none may), and what decodes one stream."""

    magic: tuple[bytes, ...]
    padding: int
    decoder: Callable[[], Any]


FORMATS = {
    ".xz": _Format((b"\xfd7zXZ\x00",), 4, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)),
    ".gz": _Format((b"\x1f\x8b",), 1, _Gzip),
    ".bz2": _Format((b"BZh",), 0, bz2.BZ2Decompressor),
    # a zstd file may begin with a frame to be skipped, as pzstd writes it
    ".zst": _Format((b"\x28\xb5\x2f\xfd", *(bytes((0x50 + i, 0x2A, 0x4D, 0x18)) for i in range(16))), 0, _Zstd),
}


def compression_of(name: str) -> str | None:
    """The suffix (in small letters) of a compressed file's name, None of another."""
    suffix = PurePath(name).suffix.lower()
    return suffix if suffix in FORMATS else None


def uncompressed_name(name: str) -> str:
    """A file's name without the suffix of its compression."""
    return str(PurePath(name).with_suffix("")) if compression_of(name) else name


def compression_in(head: bytes) -> str | None:
    """The suffix that files which begin like this have, None of no compressed format."""
    return next((suffix for suffix, form in FORMATS.items() if head.startswith(form.magic)), None)


class ArchiveText(io.RawIOBase):
    """The text of a compressed file.

    Args:
        file: the file's bytes.
        suffix: its format, a key of `FORMATS`.

    Raises, while it is read:
        EOFError: the file ends inside a stream.
        DamagedArchiveError: a damaged stream, or bytes that belong to no stream and are no padding.
        WindowTooLargeError: a zstd frame that takes more memory than there is, or a .xz that takes far more than any preset.
    """

    def __init__(self, file: BinaryIO | io.FileIO, suffix: str) -> None:
        self._file, self._suffix, self._format = file, suffix, FORMATS[suffix]
        self._decoder: _Decoder | None = None
        self._ahead = b""  # read and not yet decoded
        self._position = 0  # in the file, of the end of what was read
        self._begun = False
        self._text = memoryview(b"")

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        while not self._text:
            if self._decoder is None:
                if not self._next_stream():
                    return 0
                self._decoder = cast(_Decoder, self._format.decoder())
            data = b""
            if self._decoder.needs_input:
                data, self._ahead = self._ahead or self._read(), b""
                if not data:
                    raise EOFError
            try:
                self._text = memoryview(self._decoder.decompress(data, BUFFER_BYTES))
            except lzma.LZMAError as error:
                if "Memory usage limit" in str(error):
                    raise WindowTooLargeError(
                        f"declares a dictionary that takes more than {XZ_MEMORY // MEBIBYTE} MiB to read; compress it again "
                        "with `xz -9` at most"
                    ) from None
                raise DamagedArchiveError(str(error)) from None
            except (OSError, zlib.error, zstandard.ZstdError) as error:
                raise DamagedArchiveError(str(error)) from None
            if self._decoder.eof:
                self._ahead, self._decoder = self._decoder.unused_data, None
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def _read(self) -> bytes:
        data = self._file.read(STEP_BYTES) or b""
        self._position += len(data)
        return data

    def _next_stream(self) -> bool:
        """Go on to the next stream, past padding; False at the end of the file."""
        padding = 0
        while (self._ahead or self._fill()) and self._begun and self._format.padding:
            rest = self._ahead.lstrip(b"\x00")
            padding += len(self._ahead) - len(rest)
            self._ahead = rest
            if rest:
                break
        if self._format.padding and padding % self._format.padding:
            raise DamagedArchiveError(f"{padding} zero bytes after a stream, padding is a multiple of four")
        while self._ahead and len(self._ahead) < HEAD_BYTES and self._fill():
            pass
        if not self._ahead:
            return False
        if not self._ahead.startswith(self._format.magic):
            if any(magic.startswith(self._ahead) for magic in self._format.magic):
                raise EOFError
            where = self._position - len(self._ahead)
            raise DamagedArchiveError(f"from byte {where} on there is neither a {self._suffix} stream nor padding")
        if self._suffix == ".zst":
            _check_window(self._ahead)
        self._begun = True
        return True

    def _fill(self) -> bool:
        """Read more into what is ahead; whether there was any."""
        data = self._read()
        self._ahead += data
        return bool(data)


def _check_window(head: bytes) -> None:
    """Refuse a zstd frame whose window (of up to 2 GiB, `zstd --long=31`) does not fit into memory."""
    try:
        frame = zstandard.get_frame_parameters(head[:HEAD_BYTES])
    except zstandard.ZstdError:
        return  # cut off or damaged: the decoder tells
    window = frame.window_size
    if frame.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
        window = min(window, frame.content_size)
    if window > available_memory():
        raise WindowTooLargeError(
            f"was compressed with a window of {window // MEBIBYTE} MiB (zstd --long), and {available_memory() // MEBIBYTE} "
            "MiB of memory are free; free some, or compress it again without --long"
        )


def available_memory() -> int:
    """Bytes of memory that this process can still get: the machine's and, where there is one, the control group's."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP_MEMORY / "memory.max").read_text())
        used = int((CGROUP_MEMORY / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return free
    return min(free, max(limit - used, 0))


@contextmanager
def archive_errors(path: object) -> Iterator[None]:
    """Turn what `ArchiveText` raises into a ValueError that names the file."""
    try:
        yield
    except WindowTooLargeError as error:
        raise ValueError(f"{path}: {error}") from None
    except EOFError:
        raise ValueError(f"{path}: truncated archive, its end is missing; fetch or write it again") from None
    except DamagedArchiveError as error:
        raise ValueError(f"{path}: damaged archive ({error}); fetch or write it again") from None
