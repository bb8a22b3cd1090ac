"""What is compared when repeated text is looked for: a 64-bit hash for every line of a source, written as it is planned.

Knows text, filters and how it is normalised; the comparison is in `duplicates`. A line that another filter drops is not
compared: a pair of low score does not drive out its twin of a high one.
"""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.filters.duplicates import NOT_COMPARED, SAME_DOCUMENT
from data_prep.text.blocks import unusable
from data_prep.text.readers import is_blank, parse_tsv, split_lines


def normal(text: str) -> str:
    """Text as it is compared: Unicode's compatibility form and single spaces, as the tokenizer makes them, case kept."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


class LineHashes:
    """Writes the hash of every line to a file in a folder; a context manager.

    Args:
        folder: where the file is made.
        filters: say what is compared: pairs, lines or documents.
        columns: of TSV; empty for other layouts.
        languages: of the source; sides are compared in the order of their codes, so that de-en finds en-de.
    """

    def __init__(
        self, folder: Path, filters: PairFilters | MonoFilters, columns: tuple[str, ...], languages: tuple[str, ...]
    ) -> None:
        self.filters, self.columns = filters, columns
        self.swapped = list(languages) != sorted(languages)
        self.file = tempfile.NamedTemporaryFile(dir=folder, suffix=".hashes", delete=False)  # noqa: SIM115
        self.path = Path(self.file.name)
        self.document, self.lines_of_document = xxhash.xxh3_64(), 0

    def __enter__(self) -> LineHashes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(self._end_document())
        self.file.close()

    def add(self, texts: tuple[bytes, ...]) -> None:
        """Take the next lines of each file, the same number of each."""
        sides = list(map(split_lines, texts))
        if isinstance(self.filters, PairFilters):
            self._write([self._pair(self.filters, lines) for lines in zip(*sides, strict=True)])
        elif self.filters.drop_duplicates == "lines":
            self._write([self._line(self.filters, raw) for raw in sides[0]])
        else:
            self._write([value for raw in sides[0] for value in self._line_of_document(self.filters, raw)])

    def _write(self, values: list[int]) -> None:
        self.file.write(np.array(values, dtype=np.uint64).tobytes())

    def _pair(self, filters: PairFilters, lines: tuple[bytes, ...]) -> int:
        if any(unusable(raw, self.columns) for raw in lines):
            return NOT_COMPARED
        score = None
        if self.columns:
            source, target, score = parse_tsv(lines[0], self.columns)
        else:
            source, target = (raw.decode() for raw in lines[:2])
        if filters.drop_text(source, target, score):
            return NOT_COMPARED
        first, second = (target, source) if self.swapped else (source, target)
        return _hash(f"{normal(first)}\n{normal(second)}")

    def _text(self, filters: MonoFilters, raw: bytes) -> str:
        """A line as it is compared, empty where it is not."""
        if is_blank(raw) or unusable(raw, ()):
            return ""
        text = raw.decode()
        return "" if filters.drop_text(text) else normal(text)

    def _line(self, filters: MonoFilters, raw: bytes) -> int:
        text = self._text(filters, raw)
        return _hash(text) if text else NOT_COMPARED

    def _line_of_document(self, filters: MonoFilters, raw: bytes) -> list[int]:
        """Hashes that are known with this line: none inside a document, at its end all of it."""
        if is_blank(raw):
            return [*self._end_document(), NOT_COMPARED]
        self.document.update(self._text(filters, raw).encode() + b"\n")
        self.lines_of_document += 1
        return []

    def _end_document(self) -> list[int]:
        """The document's hash for its first line, and `SAME_DOCUMENT` for each of the others."""
        if not self.lines_of_document:
            return []
        values = [_not_reserved(self.document.intdigest())] + [SAME_DOCUMENT] * (self.lines_of_document - 1)
        self.document, self.lines_of_document = xxhash.xxh3_64(), 0
        return values


def _hash(text: str) -> int:
    return _not_reserved(xxhash.xxh3_64_intdigest(text.encode()))


def _not_reserved(value: int) -> int:
    return max(value, SAME_DOCUMENT + 1)
