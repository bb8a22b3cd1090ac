"""Everything that can be read besides a local file of lines: remote files, zip members, TMX, JSONL, Parquet, datasets.

Each is an `Input`: a name, and `open()`, which gives a stream of lines that reads on without ever holding the whole.
Knows files and formats; nothing of filters, tokenizers or shards.
"""

import errno
import hashlib
import io
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from data_prep.compression import BUFFER_BYTES
from data_prep.files import sha256_of_file
from data_prep.readers import TextFile, check_head, decompressed, open_text
from data_prep.records import Layout, LineStream, dataset_lines, jsonl_lines, parquet_lines
from data_prep.spool import identity_of
from data_prep.tmx import tmx_lines

HEAD_BYTES = 8
ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
SHOWN_MEMBERS = 20
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

    def _file_system(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            return cast(tuple[Any, str], url_to_fs(self.url))
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
            options = {"block_size": 0} if urlsplit(self.url).scheme in ("http", "https") else {}
            with file_system.open(path, "rb", **options) as file:
                yield file

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
State = tuple[int, int] | str


@dataclass(frozen=True)
class ZipMember:
    """One language's file in an OPUS Moses archive: the member whose name ends in the language, read in place."""

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


def choose_member(names: list[str], language: str, archive: str) -> str:
    """The one member of a zip archive whose suffix is the language, or else begins with it (`pt` takes `.pt_br`).

    Raises:
        ValueError: a member's path leads outside the archive's folder, or not exactly one member fits.
    """
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise ValueError(
                f"{archive}: its member {name} leads outside the archive's folder; do not trust this archive"
            )
    suffixes = {name: PurePosixPath(name).suffix[1:].lower().replace("-", "_") for name in names}
    wanted = language.lower().replace("-", "_")
    fitting = [name for name, suffix in suffixes.items() if suffix == wanted]
    fitting = fitting or [name for name, suffix in suffixes.items() if suffix.startswith(f"{wanted}_")]
    if len(fitting) != 1:
        told = "several members end" if fitting else "no member ends"
        shown = ", ".join(names[:SHOWN_MEMBERS])
        raise ValueError(f"{archive}: {told} in .{language}; it has {shown}: name the languages with --fields")
    return fitting[0]


@dataclass(frozen=True)
class Records:
    """A TMX, JSONL or Parquet file as lines; TMX and JSONL may be compressed."""

    file: StoredFile
    layout: Layout

    def __str__(self) -> str:
        return str(self.file)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file.name

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """One line per record, see `records` and `tmx`."""
        with ExitStack() as stack:
            if self.layout.format == "parquet":
                file = stack.enter_context(open_seekable(self.file))
                lines = parquet_lines(file, str(self), self.layout)
            else:
                file = stack.enter_context(open_text(self.file))
                read = self.layout.format == "tmx"
                lines = tmx_lines(file, str(self), self.layout.fields) if read else jsonl_lines(file, self.layout)
            with io.BufferedReader(LineStream(lines), BUFFER_BYTES) as stream:
                yield stream

    def identity(self) -> tuple[int, str]:
        """Size and sha256 of the file as stored."""
        return stored_identity(self.file)


@dataclass(frozen=True)
class Dataset:
    """A dataset of the Hugging Face hub, or a local folder of one (files, or `save_to_disk`), streamed.

    Attributes:
        path: name on the hub, or a folder.
        config: the dataset's configuration, "" for its default.
        split: such as train.
        revision: branch, tag or commit on the hub, "" for its default.
        layout: the fields.
    """

    path: str
    config: str
    split: str
    revision: str
    layout: Layout

    def __str__(self) -> str:
        return ":".join(part for part in (self.path, self.config, self.split, self.revision) if part)

    @property
    def name(self) -> str:
        """Name, configuration and split."""
        return ".".join(part for part in (PurePosixPath(self.path).name, self.config, self.split) if part)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """One line per record."""
        lines = LineStream(dataset_lines(self._records(), str(self), self.layout))
        with io.BufferedReader(lines, BUFFER_BYTES) as stream:
            yield stream

    def identity(self) -> tuple[int, str]:
        """Size and sha256 of the lines, as a dataset is no single file; reads it."""
        with self.open() as stream:
            return _hashed(stream)

    def _records(self) -> Iterator[dict[str, Any]]:
        import datasets

        datasets.disable_progress_bars()
        if (Path(self.path) / "dataset_dict.json").is_file():
            yield from datasets.load_from_disk(str(Path(self.path) / self.split))
        elif (Path(self.path) / "state.json").is_file():
            yield from datasets.load_from_disk(self.path)
        else:
            chosen = {"split": self.split, "revision": self.revision or None, "streaming": True}
            yield from datasets.load_dataset(self.path, self.config or None, **chosen)


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
    if not file.is_file():
        raise ValueError(f"{file}: no such file; check the path")
    if not file.stat().st_size:
        raise ValueError(f"{file}: empty file; give one with text or leave it out")
    with open(file, "rb") as stream:
        yield stream


def stored_identity(file: StoredFile) -> tuple[int, str]:
    """Size and sha256 of a file as stored."""
    if isinstance(file, Path):
        return file.stat().st_size, sha256_of_file(file)
    with file.open_bytes() as stream:
        return _hashed(stream)


def _hashed(stream: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while block := stream.read(BUFFER_BYTES):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _stored(file: TextFile) -> StoredFile | None:
    """The file that an input reads, None for a dataset."""
    if isinstance(file, Path | RemoteFile):
        return file
    return file.file if isinstance(file, ZipMember | Records) else None


def state_of(file: TextFile) -> State:
    """What shows cheaply that a source has changed: size and time of change (ns) of a file, of a remote one what its server
    tells, nothing of a dataset.

    Raises:
        OSError, ValueError: the file is not there.
    """
    stored = _stored(file)
    if isinstance(stored, RemoteFile):
        return repr(stored.details())
    return "" if stored is None else identity_of(stored)


def stored_bytes(file: TextFile) -> int:
    """Size of a source's file on disk, 0 where it is not known before reading; for progress and for sharing out work."""
    stored = _stored(file)
    return stored.stat().st_size if isinstance(stored, Path) and stored.is_file() else 0


def parse_location(text: str) -> StoredFile:
    """A path, or a URL with a protocol of `fsspec`'s; file:// is a path."""
    protocol, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    return Path(rest) if protocol == "file" else RemoteFile(text)
