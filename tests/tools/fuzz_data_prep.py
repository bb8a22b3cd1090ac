"""Feeds damaged input to the readers and to the index parser, and stops at any exception but their own ValueError.

    python tests/tools/fuzz_data_prep.py --minutes 10 [--seed N]

Each round takes a good file of one kind, damages it (bytes flipped, cut out, repeated, swapped for hostile ones, numbers
replaced by extreme ones), and reads it as a run would: plan, then text, or index, then every check. Inputs that reach
lines of data_prep that no earlier one reached are kept and damaged further, so the search is guided by coverage. What
breaks is written to the working folder with its traceback, and the seed repeats it.
"""

import argparse
import gzip
import io
import json
import lzma
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow
import zstandard
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.filters.line_hashes import LineHashes
from data_prep.plan.make_plan import make_plan
from data_prep.plan.source_plan import ShardSettings, Source
from data_prep.text.inputs import Records
from data_prep.text.readers import TextFile, open_text
from data_prep.text.rechunk import rechunk
from data_prep.text.records import Layout
from data_prep.text.zip_members import ZipMember
from data_prep.token_files.block_table import chunks_of
from data_prep.token_files.token_file import TOKEN_BYTES, TokenFile, TokenFileWriter

VOCABULARY = 250_002
MAX_BYTES = 1 << 16
MOST_MEMORY = 6 << 30  # of addresses, most of which the libraries take at their start
CORPUS = 200  # inputs kept per kind
HOSTILE = [
    b"\x00",
    b"\xff",
    b"\n",
    b"\t",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\x00!x\x00",
    b"\x00-x\x00",
    b"\xc2\x85",
    b"<",
]
HOSTILE += [
    b"]]>",
    b"&a;",
    b"<seg>",
    b"</tu>",
    b"{",
    b'"',
    b"\\ud800",
    b"1e999",
    b"-1",
    b"../",
    b"PK\x03\x04",
    b"[" * 300,
]
EXTREMES = [0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**32]
TEXT = "the cat sees\na dog\n\né 日本 語\n\u2028 red\r\n1.5\tbig\tsmall\n".encode()


def tmx(text: str = "cat") -> bytes:
    """A small translation memory."""
    units = (
        f'<tu><tuv xml:lang="en"><seg>{text}<hi>x</hi><ph/></seg></tuv><tuv xml:lang="de"><seg>y</seg></tuv></tu>' * 3
    )
    return f'<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx><header/><body>{units}</body></tmx>'.encode()


def zipped() -> bytes:
    """A small OPUS archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.en", "a.de", "README"):
            archive.writestr(name, TEXT)
    return file.getvalue()


def parquet_file() -> bytes:
    """A small Parquet file with nested and dictionary columns."""
    file = io.BytesIO()
    column = pyarrow.array(["cat", "dog", None, "cat"]).dictionary_encode()
    nested = pyarrow.array([{"en": "a", "de": "b"}] * 4)
    parquet.write_table(pyarrow.table({"text": column, "translation": nested}), file, row_group_size=2)
    return file.getvalue()


def frames(folder: Path) -> bytes:
    """A small archive of frames with their table."""
    (folder / "plain").write_bytes(TEXT * 9)
    return rechunk(folder / "plain", folder / "framed", 60, 3, 1, lambda size: None)[0].read_bytes()


def index_file(name: str, folder: Path, block_tokens: int) -> bytes:
    """A small shard's index; its tokens stay in the folder."""
    kind, languages = ("mono", ("de",)) if block_tokens else ("pair", ("en", "de"))
    writer = TokenFileWriter(folder / name, kind, languages, "f" * 64, block_tokens)  # type: ignore[arg-type]
    writer.add_sequences(np.arange(5, 15, dtype=np.int32), np.array([3, 2, 4, 1]), np.arange(4) % len(languages))
    writer.end_documents(np.array([2, 4]))
    writer.close()
    return (folder / f"{name}.idx").read_bytes()


def read_text(paths: tuple[TextFile, ...], folder: Path, columns: tuple[str, ...] = ()) -> None:
    """Plan a source as a run does, hash its lines, and read all its text."""
    kind, languages = ("pair", ("en", "de")) if columns or len(paths) > 1 else ("mono", ("de",))
    filters = MonoFilters(True, 20, "documents") if kind == "mono" else PairFilters(drop_duplicates=True)
    plan = make_plan(Source(kind, languages, paths), ShardSettings(40, columns, filters), 0.9)  # type: ignore[arg-type]
    if plan.in_place:
        for index in range(len(plan.ranges)):
            for piece in plan.text(index):
                list(piece.blocks())
    with LineHashes(folder, filters, columns, languages) as hashes, open_text(paths[0]) as stream:
        hashes.path.unlink()
        if len(paths) == 1:
            hashes.add((stream.read(),))


def read_index(path: Path) -> None:
    """Open a shard as training does, read its sequences, and check it as `verify` does."""
    tokens = TokenFile(path.with_suffix(""))
    if not tokens.problems(VOCABULARY):
        for i in range(len(tokens)):
            tokens.read_sequence(i)
        if tokens.blocks:
            chunks_of(
                [tokens.read_block(tokens.blocks, i) for i in range(len(tokens.blocks))],
                tokens.block_tokens,
                TOKEN_BYTES,
            )


Target = tuple[str, bytes, Callable[[Path, Path], None]]


def targets(folder: Path) -> list[Target]:
    """File name, good content and reader of every kind."""
    two = ("source", "target")
    jsonl = b"".join(json.dumps({"text": "cat\n", "score": 1.5, "t": {"x": "y"}}).encode() + b"\n" for _ in range(3))
    return [
        ("a.txt", TEXT, lambda path, folder: read_text((path,), folder)),
        ("a.xz", lzma.compress(TEXT * 9), lambda path, folder: read_text((path,), folder)),
        ("a.gz", gzip.compress(TEXT * 9), lambda path, folder: read_text((path,), folder)),
        ("a.zst", zstandard.compress(TEXT * 9), lambda path, folder: read_text((path,), folder)),
        ("a.tsv", b"1.2\tcat\tdog\n" * 4, lambda path, folder: read_text((path,), folder, ("score", *two))),
        ("pair", TEXT, lambda path, folder: read_text((path, path), folder)),
        ("a.tmx", tmx(), lambda path, folder: read_text((Records(path, Layout("tmx", ("en", "de"))),), folder, two)),
        ("a.jsonl", jsonl, lambda path, folder: read_text((Records(path, Layout("jsonl", ("text",), True)),), folder)),
        ("b.jsonl", jsonl, lambda path, folder: read_text(
            (Records(path, Layout("jsonl", ("text", "t.x", "score"))),), folder, (*two, "score"))),
        ("a.zip", zipped(), lambda path, folder: read_text((ZipMember(path, "en"), ZipMember(path, "de")), folder)),
        ("a.parquet", parquet_file(), lambda path, folder: read_text((Records(path, Layout("parquet", ("text",))),), folder)),
        ("b.parquet", parquet_file(), lambda path, folder: read_text(
            (Records(path, Layout("parquet", ("translation.en", "translation.de"))),), folder, two)),
        ("b.zst", frames(folder), lambda path, folder: read_text((path,), folder)),
        ("x.idx", index_file("x", folder, 0), lambda path, folder: read_index(path)),
        ("y.idx", index_file("y", folder, 6), lambda path, folder: read_index(path)),
    ]  # fmt: skip


def damaged(content: bytes, draw: random.Random) -> bytes:
    """One to four random damages."""
    raw = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(raw) + 1), draw.choice((1, 2, 4, 8, 40))
        kind = draw.randrange(7)
        if kind == 0 and raw:
            raw[at % len(raw)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del raw[at : at + size]
        elif kind == 2:
            raw[at:at] = draw.choice(HOSTILE)
        elif kind == 3:
            raw[at:at] = raw[at : at + size] * draw.randint(1, 20)
        elif kind == 4:
            raw[at : at + size] = draw.randbytes(size)
        elif kind == 5:
            code, width = draw.choice((("<q", 8), ("<i", 4)))
            value = draw.choice(EXTREMES) + draw.randint(-2, 2)
            raw[at : at + width] = struct.pack("<q", max(min(value, 2**63 - 1), -(2**63)))[: struct.calcsize(code)]
        else:
            del raw[at:]
    return bytes(raw[:MAX_BYTES])


class Coverage:
    """Which lines of data_prep were reached so far; `run` says whether a call reached new ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.seen: set[tuple[str, int]] = set()

    def run(self, function: Callable[[], None]) -> bool:
        """Call a function; True if it reached a line for the first time.

        Raises:
            Exception: the function raised another error than a ValueError of ours, which names the file.
        """
        before = len(self.seen)
        sys.settrace(self._enter)
        try:
            function()
        except ValueError as error:
            if type(error) is not ValueError or self.folder not in str(error):
                raise
        finally:
            sys.settrace(None)
        return len(self.seen) > before

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if "data_prep" in frame.f_code.co_filename else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def fuzz(seconds: float, seed: int, folder: Path) -> tuple[dict[str, int], int]:
    """Damage and read until the time is over.

    Returns:
        Inputs tried of each kind, and lines of data_prep reached.

    Raises:
        AssertionError: an input made a reader raise something else than ValueError; it lies in `folder`.
    """
    draw, coverage = random.Random(seed), Coverage(folder)
    kinds = targets(folder)
    kept = {name: [content] for name, content, _ in kinds}
    tried = dict.fromkeys(kept, 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, _, read in kinds:
            content = damaged(draw.choice(kept[name]), draw) if tried[name] else kept[name][0]
            path = folder / name
            path.write_bytes(content)
            try:
                new = coverage.run(lambda read=read, path=path: read(path, folder))  # type: ignore[misc]
            except Exception:
                found = folder / f"crash-{name}"
                found.write_bytes(content)
                raise AssertionError(f"{found}, seed {seed}:\n{traceback.format_exc()}") from None
            tried[name] += 1
            if new and len(kept[name]) < CORPUS:
                kept[name].append(content)
    return tried, len(coverage.seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # a small file that takes this much memory is a crash too
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        tried, lines = fuzz(60 * options.minutes, options.seed, folder)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    print(f"{sum(tried.values()):,} inputs, {lines:,} lines reached, no crash; " + ", ".join(
        f"{name} {count:,}" for name, count in tried.items()))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
