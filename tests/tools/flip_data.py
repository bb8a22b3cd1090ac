"""Flips single bits of a data folder's files, reads them as training and `verify` do, and counts what becomes of each.

    python tests/tools/flip_data.py --flips 100000 [--seed N]

A flip is *refused* where a reader ends with one line that names a file, *found* where only `verify` tells of it, and *without
effect* where training reads the very same batches. Of ids, a flip that gives another id of the vocabulary can be found by
`verify` alone. Anything else (another exception, other batches that `verify` is content with) ends the script with exit code 1.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_prep.data_dir.verify import find_problems, marker_problems
from data_prep.files import sha256_of_file
from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.plan.source_plan import ShardSettings, Source
from data_prep.run.job import run_job
from data_prep.token_files.manifest import MANIFEST_NAME, Manifest
from data_prep.tokenizers.tokenizer import train
from pipeline.data.shards import OpenShards, ShardLanguage
from pipeline.data.streams import open_streams

LIMIT = 32
WORDS = "the cat dog bird sees hears likes a small big red old house tree river and on under with"
SUFFIXES = (".bin", ".idx", ".json")


def write_data(folder: Path, draw: random.Random) -> Path:
    """A small data folder with monolingual text and pairs."""
    sentences = [" ".join(draw.choices(WORDS.split(), k=draw.randint(2, 9))) for _ in range(400)]
    train(sentences, 40, 1.0, 4192).save(folder / "tokenizer")
    for name in ("m", "s", "t"):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in sentences[:12]), encoding="utf-8")
        draw.shuffle(sentences)
    settings = {"shard_bytes": 200, "block_tokens": LIMIT}
    sources = [
        Source("mono", ("en",), (folder / "m.txt",), ShardSettings(**settings, filters=MonoFilters())),
        Source(
            "pair", ("en", "de"), (folder / "s.txt", folder / "t.txt"), ShardSettings(**settings, filters=PairFilters())
        ),
    ]
    run_job(sources, folder / "tokenizer", folder / "data", 1, 0.0)
    return folder / "data"


@dataclass
class Flipping:
    """A folder, what training reads of it, and what became of the flips so far."""

    data_dir: Path
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manifest = Manifest.load(self.data_dir)
        self.hashes = {digest for shard in self.manifest.shards for digest in shard.sha256.values()}
        self.expected = self.batches(self.manifest)

    def batches(self, manifest: Manifest) -> list[np.ndarray]:
        """All samples of the folder, with newly opened files."""
        found: list[np.ndarray] = []
        streams = open_streams(manifest, ["mono", "pairs"], alpha=0.7, seed=1, limits={"mono": LIMIT, "pairs": LIMIT})
        for name, stream in streams.items():
            groups = manifest.mono if name == "mono" else manifest.pairs
            block_tokens = LIMIT if name == "mono" else 0
            stream._languages = [ShardLanguage(groups[key], block_tokens, OpenShards()) for key in stream.names]
            read = stream.samples(np.arange(sum(stream.counts)))
            found += [read.ids_T, read.lengths_S]
        return found

    def flip(self, path: Path, whole: bytes, bit: int) -> None:
        """Flip one bit of a file, read, and put the file back."""
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            kind = "manifest" if path.name == MANIFEST_NAME else "marker" if path.suffix == ".json" else path.suffix
            self.counts.setdefault(kind, Counter())[self.outcome(path, bit)] += 1
        finally:
            path.write_bytes(whole)

    def outcome(self, path: Path, bit: int) -> str:
        """What training, and where it is content `verify`, make of the folder as it is."""
        try:
            if path.name == MANIFEST_NAME:
                found = self.batches(Manifest.load(self.data_dir))
            else:
                found = self.batches(self.manifest) if path.suffix != ".json" else self.expected
        except ValueError as error:
            if str(self.data_dir) not in str(error) or "\n" in str(error):
                raise AssertionError(f"{path}, bit {bit}: {error!r} names no file") from None
            return "refused"
        except Exception as error:
            raise AssertionError(f"{path}, bit {bit}: {error!r}") from error
        same = len(found) == len(self.expected) and all(map(np.array_equal, found, self.expected))
        if not self.verify_tells(path):
            raise AssertionError(f"{path}, bit {bit}: verify is content")
        return "found, without effect" if same else "found"

    def verify_tells(self, path: Path) -> bool:
        """Whether `verify` has something to say; of a shard's files its part for them is asked, which is quicker."""
        if path.name == MANIFEST_NAME:
            return any(find_problems(self.data_dir))
        if path.suffix == ".json":
            told = list(marker_problems(path))
            return len(told) == 1 and told[0].startswith(f"{path}: ") and "\n" not in told[0]
        return sha256_of_file(path) not in self.hashes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flips", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        flipping = Flipping(write_data(Path(folder), draw))
        files = [path for path in sorted(flipping.data_dir.glob("*/*/*")) if path.suffix in SUFFIXES]
        contents = {path: path.read_bytes() for path in [*files, flipping.data_dir / MANIFEST_NAME]}
        bits = [(path, bit) for path, whole in contents.items() for bit in range(8 * len(whole))]
        began = time.monotonic()
        try:
            for path, bit in draw.sample(bits, min(options.flips, len(bits))):
                flipping.flip(path, contents[path], bit)
        except AssertionError as error:
            print(error, file=sys.stderr)
            return 1
    for kind, counts in sorted(flipping.counts.items()):
        print(f"{kind}: " + ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())))
    total = sum(sum(counts.values()) for counts in flipping.counts.values())
    print(f"{total:,} flips of {len(bits):,} bits, {time.monotonic() - began:.0f} s, all refused or found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
