"""The text that the benchmark runs on: given files or generated ones, repeated to a size, plain and as .xz."""

from __future__ import annotations

import lzma
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from data_prep.sample import write_sample
from data_prep.text.blocks import BLOCK_BYTES, line_blocks, raw_blocks
from data_prep.text.readers import open_text
from data_prep.tokenizers.tokenizer import Tokenizer, train

SEEDS = range(4)  # generated corpora put together when no text is given
VOCABULARY, TRAINING_LINES, MAX_TRAINING_LINE = 600, 100_000, 1000
SLICE_BLOCK = 1 << 16


@dataclass(frozen=True)
class BenchmarkText:
    """A text, its archive, its beginning for slow peers, and a tokenizer."""

    folder: Path
    tokenizer_dir: Path
    description: str

    @property
    def text(self) -> Path:
        """The whole text."""
        return self.folder / "text.txt"

    @property
    def archive(self) -> Path:
        """The same as .xz, with xz's usual settings."""
        return self.folder / "text.txt.xz"

    @property
    def slice(self) -> Path:
        """The beginning of the text."""
        return self.folder / "slice.txt"

    def longer(self, times: int) -> Path:
        """The text so many times over."""
        path = self.folder / "longer.txt"
        with open(path, "wb") as out:
            for _ in range(times):
                with open(self.text, "rb") as text:
                    shutil.copyfileobj(text, out, BLOCK_BYTES)
        return path


def make_corpus(
    folder: Path, files: list[Path], tokenizer_dir: Path | None, size: int, slice_size: int
) -> BenchmarkText:
    """Write the text and all that belongs to it.

    Raises:
        ValueError: a file that cannot be read, or a tokenizer that cannot be loaded.
    """
    base = folder / "base.txt"
    with open(base, "wb") as out:
        for path in files or _generated(folder):
            with open_text(path) as stream:
                for block in raw_blocks(stream):
                    out.write(block)
            out.write(b"\n")
    base_size = base.stat().st_size
    rest = folder / "rest.txt"
    rest.write_bytes(_beginning(base, size % base_size))
    parts = [base] * (size // base_size) + [rest]
    corpus = BenchmarkText(folder, tokenizer_dir or folder / "tokenizer", _describe(files, base_size, size))
    with open(corpus.text, "wb") as out:
        for part in parts:
            _append(part, out)
    corpus.slice.write_bytes(_taken_evenly(corpus.text, slice_size))
    _compress(parts, corpus.archive)
    if tokenizer_dir is None:
        _train(corpus)
    Tokenizer.load(corpus.tokenizer_dir)
    for path in (base, rest):
        path.unlink()
    return corpus


def _generated(folder: Path) -> list[Path]:
    for seed in SEEDS:
        write_sample(folder / f"sample{seed}", seed)
    return sorted(path for seed in SEEDS for path in (folder / f"sample{seed}" / "mono").glob("*.txt"))


def _describe(files: list[Path], base_size: int, size: int) -> str:
    kind = f"{len(files)} files" if files else "generated text"
    return f"{kind}, {base_size / 1e6:.1f} MB, repeated or cut to {size / 1e6:.0f} MB"


def _beginning(path: Path, size: int) -> bytes:
    """The first `size` bytes and what is left of their last line."""
    with open(path, "rb") as file:
        return file.read(size) + file.readline()


def _append(path: Path, out: BinaryIO) -> None:
    with open(path, "rb") as file:
        shutil.copyfileobj(file, out, BLOCK_BYTES)


def _taken_evenly(path: Path, size: int) -> bytes:
    """Blocks of whole lines from all over a text, `size` bytes or all of it."""
    with open(path, "rb") as file:
        blocks = list(line_blocks(raw_blocks(file), path)) if path.stat().st_size <= size else []
    if blocks:
        return b"".join(blocks)
    stride = path.stat().st_size / (size / SLICE_BLOCK)
    taken = []
    with open(path, "rb") as file:
        for number in range(size // SLICE_BLOCK):
            file.seek(int(number * stride))
            file.readline()
            taken.append(file.read(SLICE_BLOCK) + file.readline())
    return b"".join(taken)


def _compress(parts: list[Path], archive: Path) -> None:
    """Every part as an xz stream of its own; a part that comes again is compressed once."""
    compressed = {part: lzma.compress(part.read_bytes()) for part in set(parts) if part.stat().st_size}
    with open(archive, "wb") as out:
        for part in parts:
            out.write(compressed.get(part, b""))


def _train(corpus: BenchmarkText) -> None:
    with open(corpus.text, encoding="utf-8", newline="\n") as file:
        lines = islice((line.rstrip("\n") for line in file if len(line) < MAX_TRAINING_LINE), TRAINING_LINES)
        train(lines, VOCABULARY, 0.9995, 4 * MAX_TRAINING_LINE).save(corpus.tokenizer_dir)
