"""Files as they are stored: local ones, and those behind a URL that `fsspec` understands.

Knows bytes, names and what a server tells; nothing of lines or formats.
"""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from data_prep.files import sha256_of_file
from data_prep.text.compression import BUFFER_BYTES, HEAD_BYTES, ArchiveText, compression_in, compression_of
from data_prep.text.readers import check_head, check_regular, decompressed
from data_prep.text.records import LineStream

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# What remote file systems tell of a file's state, under their several names; times of access are not among it.
VERSION_KEYS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "created", "size")


@dataclass(frozen=True)
class RemoteFile:
    """A file of lines behind a URL that `fsspec` understands (https://, s3://, memory:// …), decompressed by its name."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Last part of the URL's path."""
        parts = urlsplit(self.url)
        return PurePosixPath(parts.path or parts.netloc).name or "text"

    @property
    def _is_http(self) -> bool:
        return urlsplit(self.url).scheme in ("http", "https")

    def _file_system(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        # as it is stored: a client that undoes Content-Encoding would unpack archives, which servers label with it
        options = {"client_kwargs": {"auto_decompress": False}} if self._is_http else {}
        try:
            return cast(tuple[Any, str], url_to_fs(self.url, **options))
        except (ImportError, ValueError) as error:
            raise ValueError(f"{self.url}: {error}; see fsspec's list of protocols") from None

    @contextmanager
    def open_bytes(self) -> Iterator[BinaryIO]:
        """Open the file's own bytes, from first to last.

        Raises:
            ValueError: it cannot be fetched.
        """
        with remote_errors(self.url):
            file_system, path = self._file_system()
            # a server need not be able to send parts: block_size 0 asks for the whole, as a stream
            options = {"block_size": 0} if self._is_http else {}
            with file_system.open(path, "rb", **options) as file:
                headers = getattr(getattr(file, "r", None), "headers", {})
                yield self._without_coding(file, str(headers.get("Content-Encoding", "")).lower())

    def _without_coding(self, file: BinaryIO, coding: str) -> BinaryIO:
        """The file behind a compression that the server put over it for the transfer.

        Raises:
            ValueError: one that is not known.
        """
        if coding in ("", "identity"):
            return file
        if coding not in ("gzip", "x-gzip"):
            raise ValueError(f"{self.url}: is sent with Content-Encoding: {coding}; download it and give the file")
        head = file.read(BUFFER_BYTES)
        whole = cast(BinaryIO, LineStream(chain([head], iter(lambda: file.read(BUFFER_BYTES), b""))))
        # what is named .gz is mostly the file itself, labelled; it is compressed once more only if it is so within
        named, is_twice = compression_of(self.name) == ".gz", False
        if compression_in(head) == ".gz" and named:
            within = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
            is_twice = compression_in(within) == ".gz"
        if compression_in(head) != ".gz" or (named and not is_twice):
            return whole
        return cast(BinaryIO, io.BufferedReader(ArchiveText(whole, ".gz"), BUFFER_BYTES))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The text's lines."""
        with self.open_bytes() as file:
            head = file.read(HEAD_BYTES)
            check_head(head, self)
            rest = cast(BinaryIO, LineStream(chain([head], iter(lambda: file.read(BUFFER_BYTES), b""))))
            with io.BufferedReader(decompressed(rest, self), BUFFER_BYTES) as stream:
                yield stream

    def identity(self) -> tuple[int, str]:
        """Size and sha256 of the file as stored, the same as a local copy's; fetches it."""
        return stored_identity(self)

    def details(self) -> dict[str, Any]:
        """What the server tells of the file's size and version."""
        with remote_errors(self.url):
            file_system, path = self._file_system()
            info = file_system.info(path)
        return {key: str(info[key]) for key in VERSION_KEYS if info.get(key) is not None}


StoredFile = Path | RemoteFile


@contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Turn what a remote file system raises into a ValueError that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        # fsspec's HTTP client says this of every fault, and why in the cause
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ValueError(f"{url}: no such file, or it cannot be fetched{cause}; check the address") from None
    except (ValueError, EOFError):
        raise
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise  # of what the reader of the file was writing
        raise ValueError(f"{url}: cannot be fetched ({' '.join(str(error).split())}); try again") from None
    except Exception as error:
        # each protocol has a client library with exceptions of its own
        if type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "gcsfs", "fsspec", "asyncio"):
            raise ValueError(f"{url}: cannot be fetched ({type(error).__name__} {error}); try again") from None
        raise


@contextmanager
def open_seekable(file: StoredFile) -> Iterator[BinaryIO]:
    """Open a file's own bytes for reading in any order; a remote one is first copied to a temporary file.

    Raises:
        ValueError: it is missing or empty.
    """
    if isinstance(file, RemoteFile):
        with file.open_bytes() as stream, tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, BUFFER_BYTES)
            copy.seek(0)
            yield cast(BinaryIO, copy)
        return
    check_regular(file)
    with open(file, "rb") as stream:
        yield stream


def stored_identity(file: StoredFile) -> tuple[int, str]:
    """Size and sha256 of a file as stored."""
    if isinstance(file, Path):
        return file.stat().st_size, sha256_of_file(file)
    with file.open_bytes() as stream:
        return hashed(stream)


def hashed(stream: BinaryIO) -> tuple[int, str]:
    """Size and sha256 of what is left of a stream."""
    digest, size = hashlib.sha256(), 0
    while block := stream.read(BUFFER_BYTES):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def parse_location(text: str) -> StoredFile:
    """A path, or a URL with a protocol of `fsspec`'s; file:// is a path."""
    protocol, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    return Path(rest) if protocol == "file" else RemoteFile(text)
