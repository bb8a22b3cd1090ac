"""Everything besides files of lines and zip members that can be read: TMX, JSONL, CSV, Parquet, datasets.

Each is an `Input`: a name, and `open()`, which gives a stream of lines that reads on without ever holding the whole.
Knows files and formats; nothing of filters, tokenizers or shards.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from data_prep.files import size_and_time
from data_prep.text.compression import BUFFER_BYTES
from data_prep.text.readers import TextFile, open_text
from data_prep.text.records import Layout, LineStream, csv_lines, dataset_lines, jsonl_lines, parquet_lines
from data_prep.text.stored import RemoteFile, StoredFile, hashed, open_seekable, stored_identity
from data_prep.text.tmx import tmx_lines
from data_prep.text.zip_members import ZipMember

State = tuple[int, int] | str


@dataclass(frozen=True)
class Records:
    """A TMX, JSONL, CSV or Parquet file as lines; all but Parquet may be compressed."""

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
                lines = self._lines(stack.enter_context(open_text(self.file)))
            with io.BufferedReader(LineStream(lines), BUFFER_BYTES) as stream:
                yield stream

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        if self.layout.format == "tmx":
            return tmx_lines(file, str(self), self.layout.fields)
        if self.layout.format == "csv":
            return csv_lines(file, str(self), self.layout)
        return jsonl_lines(file, self.layout)

    def identity(self) -> tuple[int, str]:
        """Size and sha256 of the file as stored."""
        return stored_identity(self.file)


@dataclass(frozen=True)
class Dataset:
    """A dataset of the Hugging Face hub, or a local folder of one (files, or `save_to_disk`), streamed."""

    path: str
    """Name on the hub, or a folder."""
    config: str
    """The dataset's configuration, "" for its default."""
    split: str
    """Such as train."""
    revision: str
    """Branch, tag or commit on the hub, "" for its default."""
    layout: Layout
    """The fields."""

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
            return hashed(stream)

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
    return "" if stored is None else size_and_time(stored)


def stored_bytes(file: TextFile) -> int:
    """Size of a source's file on disk, 0 where it is not known before reading; for progress and for sharing out work."""
    stored = _stored(file)
    return stored.stat().st_size if isinstance(stored, Path) and stored.is_file() else 0
