"""Structured corpora as lines: JSONL, CSV, Parquet and Hugging Face datasets, a record at a time in bounded memory.

Knows records and their fields; nothing of where files lie, of filters or of shards. A record becomes one line: its text,
or `source<TAB>target[<TAB>score]`. Line breaks and tabs inside become spaces, which SentencePiece makes of them anyway.
A record that cannot be used becomes a line that says so (see `readers.bad_record`), so that line numbers stay record
numbers.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from data_prep.text.readers import bad_record, skipped_record

BLOCK_BYTES = 1 << 16
ROWS = 1024
MAX_RECORD_BYTES = 256 << 20
SHOWN_FIELDS = 20
PARQUET_MAGIC = b"PAR1"
PARQUET_SEAM = 2 * PARQUET_MAGIC  # one file's end, another one's beginning
SEARCHED_BYTES = 1 << 20
CSV_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Layout:
    """How records become lines; part of a source's settings hash."""

    format: str
    """"zip", "tmx", "jsonl", "csv", "parquet" or "dataset"."""
    fields: tuple[str, ...]
    """Of JSONL, CSV, Parquet and datasets the names of the text, or of source, target and, if there is one, score; dots
    lead into nested records. Of TMX and zip the languages as the file spells them."""
    documents: bool = False
    """Each record is a document: its line breaks separate sentences and a blank line follows it."""


class LineStream(io.RawIOBase):
    """A readable stream over an iterator of lines."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self.lines = lines
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self.rest:
            block, size = [], 0
            for line in self.lines:
                block.append(line)
                size += len(line)
                if size >= BLOCK_BYTES:
                    break
            self.rest = memoryview(b"".join(block))
        size = min(len(buffer), len(self.rest))
        buffer[:size] = self.rest[:size]
        self.rest = self.rest[size:]
        return size


def one_line(text: bytes) -> bytes:
    """Text without line breaks and tabs."""
    return text.replace(b"\n", b" ").replace(b"\t", b" ")


def record_line(values: list[Any], layout: Layout, raw: bytes) -> bytes:
    """The line (or, of a document, lines) that a record's field values make, with the newline.

    Args:
        values: what each of the layout's fields holds; None where it is missing.
        raw: the record as it stands in the source, kept in quarantine if it is bad ("field": no text in a field).
    """
    texts = [_bytes_of(value) for value in values[:2]]
    if None in texts:
        return bad_record("field", raw) + b"\n"
    if len(layout.fields) > 1:
        score = [_bytes_of(values[2]) or str(values[2]).encode()] if len(values) > 2 else []
        return b"\t".join(one_line(text or b"") for text in texts + score) + b"\n"
    text = texts[0] or b""
    if not text or text.isspace():
        return skipped_record("empty") + b"\n"
    if layout.documents:
        return b"".join(line + b"\n" for line in text.split(b"\n") if line and not line.isspace()) + b"\n"
    return one_line(text) + b"\n"


def _bytes_of(value: Any) -> bytes | None:
    if isinstance(value, str):
        # a lone surrogate, which JSON can spell, becomes invalid UTF-8 and is then counted as that
        return value.encode("utf-8", "surrogatepass")
    return value if isinstance(value, bytes) else None


def field_value(record: Any, name: str) -> Any:
    """What a field holds, or None; `translation.en` is the field `en` of the record `translation`."""
    if isinstance(record, dict) and name in record:
        return record[name]
    for part in name.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record


def jsonl_lines(stream: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """Lines of a JSONL file; one that is no JSON object is a bad record, "json", a blank one is skipped."""
    while raw := stream.readline(MAX_RECORD_BYTES):
        raw = raw.rstrip(b"\n")
        if not raw.strip():
            yield skipped_record("blank") + b"\n"
            continue
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            yield bad_record("json", raw) + b"\n"
            continue
        yield record_line([field_value(record, name) for name in layout.fields], layout, raw)


def csv_lines(stream: BinaryIO, name: str, layout: Layout) -> Iterator[bytes]:
    """Lines of a CSV file, whose first row names its columns; commas, semicolons or tabs are between them.

    A row with another number of columns is a bad record, "columns".

    Raises:
        ValueError: no such columns, or a quotation mark that nothing ends.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    # what is no UTF-8 becomes lone surrogates, and they a bad record
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    head = text.readline()
    delimiter = max(CSV_DELIMITERS, key=head.count)
    columns = next(csv.reader([head], delimiter=delimiter), [])
    missing = [field for field in layout.fields if field not in columns]
    if missing:
        known = ", ".join(columns[:SHOWN_FIELDS])
        raise ValueError(
            f"{name}: no column {missing[0]}; its first row is {known}: name the columns with --fields, or take its lines as "
            "they are with --format text"
        )
    places = [columns.index(field) for field in layout.fields]
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{name}:{rows.line_num + 1}: not valid CSV ({error}); correct it or fetch it again"
            ) from None
        raw = delimiter.join(row).encode("utf-8", "surrogateescape")
        if not row:
            yield skipped_record("blank") + b"\n"
        elif len(row) != len(columns):
            yield bad_record("columns", raw) + b"\n"
        else:
            yield record_line([row[place].encode("utf-8", "surrogateescape") for place in places], layout, raw)


def parquet_lines(file: BinaryIO, name: str, layout: Layout) -> Iterator[bytes]:
    """Lines of a Parquet file, of whose row groups only the wanted columns are read.

    Raises:
        ValueError: not Parquet, damaged, or without one of the fields.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        _check_is_one(file, name)
        missing = [field for field in layout.fields if not _has_column(table.schema_arrow, field)]
        if missing:
            known = ", ".join(table.schema_arrow.names[:SHOWN_FIELDS])
            raise ValueError(f"{name}: no field {missing[0]}; its fields are {known}: name them with --fields")
        for batch in table.iter_batches(ROWS, columns=list(layout.fields)):
            columns = [_column(batch, field) for field in layout.fields]
            for values in zip(*columns, strict=True):
                yield record_line(list(values), layout, repr(values).encode("utf-8", "replace"))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: not a Parquet file that can be read ({reason}); fetch or write it again") from None


def _check_is_one(file: BinaryIO, name: str) -> None:
    """Refuse files that were put one behind the other: the last one's footer knows nothing of the others.

    All of the file is searched for a footer with another file behind it. The columns' own metadata would tell where the data
    end, but where they are damaged pyarrow 26 ends the process.
    """
    block, before = b"", 0  # of the file's bytes, those of `block` begin there
    file.seek(0)
    while more := file.read(SEARCHED_BYTES):
        kept = block[-(len(PARQUET_SEAM) - 1) :]
        before += len(block) - len(kept)
        block = kept + more
        at = block.find(PARQUET_SEAM)
        while at >= 0:
            if _ends_with_footer(file, before + at):
                raise ValueError(f"{name}: several Parquet files in one; give each by itself")
            at = block.find(PARQUET_SEAM, at + 1)
        file.seek(before + len(block))


def _ends_with_footer(file: BinaryIO, end: int) -> bool:
    """Whether a Parquet file's footer and the footer's length stand before this place of a file."""
    import pyarrow
    from pyarrow import parquet

    file.seek(end - 4)
    size = int.from_bytes(file.read(4), "little")
    if size > end - 8:
        return False
    file.seek(end - 4 - size)
    try:
        parquet.read_metadata(pyarrow.BufferReader(PARQUET_MAGIC + file.read(size + 4) + PARQUET_MAGIC))
    except (pyarrow.ArrowException, OSError):
        return False
    return True


def _has_column(schema: Any, field: str) -> bool:
    if field in schema.names:
        return True
    first, *rest = field.split(".")
    kind = schema.field(first).type if first in schema.names else None
    for part in rest:
        if kind is None or not hasattr(kind, "get_field_index") or kind.get_field_index(part) < 0:
            return False
        kind = kind.field(part).type
    return kind is not None


def _column(batch: Any, field: str) -> list[Any]:
    """A column's values; text as bytes, so that invalid UTF-8 in it is a bad record and no exception."""
    import pyarrow
    import pyarrow.compute

    if field in batch.schema.names:
        column = batch.column(field)
    else:
        first, *rest = field.split(".")
        column = pyarrow.compute.struct_field(batch.column(first), rest)
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        column = column.cast(pyarrow.large_binary())
    return list(column.to_pylist())


def dataset_lines(records: Iterable[dict[str, Any]], name: str, layout: Layout) -> Iterator[bytes]:
    """Lines of a Hugging Face dataset, read as a stream.

    Raises:
        ValueError: it cannot be read (in the words of `datasets`), or its first record lacks a field.
    """
    source = iter(records)
    first = True
    while True:
        try:
            record = next(source)
        except StopIteration:
            return
        except Exception as error:
            # whatever the libraries below `datasets` raise, for the user it is a dataset that cannot be read
            raise ValueError(
                f"{name}: cannot be read ({type(error).__name__}: {' '.join(str(error).split())})"
            ) from None
        values = [field_value(record, field) for field in layout.fields]
        missing = [field for field in layout.fields if field not in record and field.split(".")[0] not in record]
        if first and missing:
            known = ", ".join(list(record)[:SHOWN_FIELDS])
            raise ValueError(f"{name}: no field {missing[0]}; its fields are {known}: name them with --fields")
        first = False
        yield record_line(values, layout, repr(values).encode("utf-8", "replace"))
