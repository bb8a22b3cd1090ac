"""Makes a data folder of very many small shards and measures what a training's data loader needs to begin, and while it reads.

    python tests/tools/many_shards.py --shards 100000 [--batches 200] [--out FOLDER]

Prints JSON: seconds and memory to read the manifest, to look at the sizes of all files too, and to the first batch after that;
open shards and memory after some of the batches. What stays of a folder given with --out is used again.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data_prep.files import canonical_json
from data_prep.token_files.manifest import MANIFEST_NAME, Manifest
from data_prep.token_files.token_file import SCHEMA, TokenFileWriter
from pipeline.data.batch import View
from pipeline.data.shards import OPEN_SHARDS, most_open_shards
from pipeline.data.streams import BatchPlan
from pipeline.data.training_data import TrainingData

VOCAB_SIZE, LIMIT, BATCH, PER_FOLDER = 250_002, 64, 512, 1000
SENTENCES, LENGTH = 8, 20
MEBIBYTE = 1 << 20


def write_shards(folder: Path, count: int) -> None:
    """The same small shard so many times under its own names, and a manifest of all of them."""
    writer = TokenFileWriter(folder / "one", "mono", ("en",), "f" * 64, LIMIT)
    ids_T = np.random.default_rng(0).integers(3, VOCAB_SIZE - 1, SENTENCES * LENGTH, dtype=np.int32)
    writer.add_sequences(ids_T, np.full(SENTENCES, LENGTH), np.zeros(SENTENCES, dtype=np.int64))
    writer.end_document()
    files = writer.close()
    contents = {suffix: (folder / f"one.{suffix}").read_bytes() for suffix in files}
    counts = {"documents": 1, "sequences": SENTENCES, "tokens": len(ids_T), "max_length": LENGTH}
    counts |= {"block_tokens": LIMIT, "blocks": writer.blocks, "tokens_per_language": {"en": len(ids_T)}}
    records = []
    for number in range(count):
        stem = f"mono/en/{number // PER_FOLDER:03d}/en.txt.xz-{number:08x}-{number:08x}-{number:05d}"
        if number % PER_FOLDER == 0:
            (folder / stem).parent.mkdir(parents=True)
        for suffix, content in contents.items():
            (folder / f"{stem}.{suffix}").write_bytes(content)
        records.append({"stem": stem, "kind": "mono", "languages": ["en"], "counts": counts, "files": files})
    tokenizer = {"sha256": "f" * 64, "vocab_size": VOCAB_SIZE}
    content = {"schema": SCHEMA, "tokenizer": tokenizer, "shards": records, "sources": []}
    (folder / MANIFEST_NAME).write_bytes(canonical_json(content))


def memory() -> float:
    """Resident memory of this process that is no file's, in MiB."""
    used = psutil.Process().memory_info()
    return (used.rss - used.shared) / MEBIBYTE


def measure(folder: Path, batches: int) -> dict[str, float]:
    """What a training that reads the folder would see."""
    found: dict[str, float] = {"most_open_shards": most_open_shards(), "mebibytes_before": memory()}
    began = time.perf_counter(), time.process_time()
    manifest = Manifest.read(folder)
    found["manifest_seconds"] = time.perf_counter() - began[0]
    found["manifest_cpu_seconds"] = time.process_time() - began[1]
    found["manifest_mebibytes"] = memory() - found["mebibytes_before"]
    began = time.perf_counter(), time.process_time()
    manifest = Manifest.load(folder)
    found["manifest_and_sizes_seconds"] = time.perf_counter() - began[0]
    began = time.perf_counter(), time.process_time()
    data = TrainingData(manifest, [View("mono", "masked")], alpha=0.7, seed=1, limits={"mono": LIMIT})
    plan = BatchPlan({"mono": BATCH}, 1, 1)
    data.micro_batch(plan, 0, 0, 0)
    found["first_batch_seconds"] = time.perf_counter() - began[0]
    found["first_batch_cpu_seconds"] = time.process_time() - began[1]
    for step in range(1, batches):
        data.micro_batch(plan, step, 0, 0)
        if step in (batches // 10, batches // 2, batches - 1):
            found[f"mebibytes_at_batch_{step + 1}"] = memory()
            found[f"open_shards_at_batch_{step + 1}"] = len(OPEN_SHARDS)
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        if not (folder / MANIFEST_NAME).exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_shards(folder, options.shards)
        print(json.dumps(measure(folder, options.batches), indent=2))


if __name__ == "__main__":
    main()
