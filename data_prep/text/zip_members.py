"""One file of a zip archive, read in place; which one, by language or by name.

Knows archives and their members; nothing of lines.
"""

from __future__ import annotations

import errno
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from data_prep.text.stored import StoredFile, open_seekable, stored_identity

ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
SHOWN_MEMBERS = 20


@dataclass(frozen=True)
class ZipMember:
    """One language's file in an OPUS Moses archive: the member whose name ends in the language, or is given; read in place."""

    file: StoredFile
    language: str

    def __str__(self) -> str:
        return f"{self.file} ({self.language})"

    @property
    def name(self) -> str:
        """The archive's name and the language."""
        return f"{self.file.name}.{self.language}"

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The member's lines.

        Raises:
            ValueError: no zip archive, a damaged or encrypted one, one with a path that leads outside, or without one
                member for the language.
        """
        with open_seekable(self.file) as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    _check_beginning(archive, str(self.file))
                    member = choose_member(archive.namelist(), self.language, str(self.file))
                    with archive.open(member) as text, io.BufferedReader(cast(io.RawIOBase, text)) as stream:
                        yield stream
            except (*ZIP_ERRORS, OSError) as error:
                # a damaged offset is an invalid seek, bzip2 gives no number; other errors of the system are not the archive's
                if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                    raise
                reason = f"damaged, encrypted or no zip archive ({error})"
                raise ValueError(f"{self.file}: {reason}; fetch or write it again") from None

    def identity(self) -> tuple[int, str]:
        """Size and sha256 of the whole archive."""
        return stored_identity(self.file)


def choose_member(names: list[str], wanted: str, archive: str) -> str:
    """The one member of a zip archive that is wanted: by its name, with folders or without; or by its language: its suffix, or
    what its suffix begins with (`pt` takes `.pt_br`).

    Folders and what macOS packs beside files (`__MACOSX/`, `._x.de`, `.DS_Store`) are no members.

    Raises:
        ValueError: a member's path leads outside the archive's folder, or not exactly one member fits.
    """
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise ValueError(
                f"{archive}: its member {name} leads outside the archive's folder; do not trust this archive"
            )
    files = [name for name in names if _is_file(name)]
    suffixes = {name: _normal(PurePosixPath(name).suffix[1:]) for name in files}
    language = _normal(wanted)
    ways = (
        [name for name in files if name == wanted],
        [name for name in files if PurePosixPath(name).name == wanted],
        [name for name, suffix in suffixes.items() if suffix == language],
        [name for name, suffix in suffixes.items() if suffix.startswith(f"{language}_")],
    )
    fitting = next(filter(None, ways), [])
    if len(fitting) != 1:
        told = "several members end" if fitting else "no member ends"
        shown = ", ".join((fitting or files)[:SHOWN_MEMBERS]) or "no file"
        raise ValueError(
            f"{archive}: {told} in .{wanted}; it has {shown}: give with --fields each language as the archive spells it, or a "
            "member's name"
        )
    return fitting[0]


def _is_file(name: str) -> bool:
    path = PurePosixPath(name)
    beside = path.parts[:1] == ("__MACOSX",) or path.name.startswith(("._", ".DS_"))
    return bool(path.name) and not name.endswith(("/", "\\")) and not beside


def _normal(language: str) -> str:
    return language.lower().replace("-", "_")


def _check_beginning(archive: zipfile.ZipFile, name: str) -> None:
    """Refuse an archive that begins behind other bytes, such as another archive: they would be left out without a word."""
    first = min((member.header_offset for member in archive.infolist()), default=0)
    if first:
        raise ValueError(
            f"{name}: {first} bytes stand before the archive, which may be another one; give each by itself"
        )
