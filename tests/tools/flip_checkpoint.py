"""Flips single bits of a small run's checkpoints and asks what a resume and an export would read: nothing wrong may pass.

    python tests/tools/flip_checkpoint.py --seconds 300 [--seed N]

A run with two checkpoints is made of a model of a few thousand parameters. Each round flips one bit of the latest one's
manifest (every bit in turn, then again those of an older version's manifest) or of its weights (at random), and looks for
the checkpoint as `--resume auto` does, and as all that use a model do. It counts

- found: the checkpoint is passed over with one line that names the file, and the one before it is taken;
- identical: the checkpoint is taken, and says exactly what it said (JSON can be written in more than one way);
- WRONG: anything else, which ends the script with exit code 1.

Named alone, a flipped checkpoint must be refused in one line, or it is WRONG. A manifest of an older version has no checksum,
and a run says so when it reads one: what passes there is counted, and is no failure. Prints one line a kind of file.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[0] = str(REPOSITORY)
sys.path.insert(1, str(REPOSITORY / "kernels"))

import torch  # noqa: E402

from pipeline.checkpoints import checkpoint  # noqa: E402
from pipeline.checkpoints.manifest import MANIFEST, CheckpointInfo, read_manifest  # noqa: E402

MODEL, OPTIMIZER = "mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"


class Flips:
    """A run, and what its latest checkpoint said before anything was flipped."""

    def __init__(self, work: Path) -> None:
        self.run = work / "run"
        for step in (2, 4):
            self.latest = self._save(step)
        self.previous = checkpoint.folder_of(self.run) / checkpoint.tag_of(2)
        self.expected = asdict(checkpoint.read_info(self.latest))

    def _save(self, step: int) -> Path:
        folder = checkpoint.clear(self.run, step)
        for name in (MODEL, OPTIMIZER):
            torch.save({"module": {"weight": torch.randn(16, 16)}, "step": step}, folder / name)
        config = {"data": {"path": "data", "alpha": 0.7}, "run": {"seed": 1}, "optimizer": {"lr": 1e-6, "name": "é"}}
        checkpoint.seal(folder, CheckpointInfo(step, 1, 2, "fp32", "0" * 64, config, {"layers": 2, "norm_eps": 1e-5}))
        return folder

    def as_older_version(self) -> None:
        """The latest manifest as schema 2 had it, which had no checksum."""
        path = self.latest / MANIFEST
        content = json.loads(path.read_text(encoding="utf-8"))
        del content["checksum"], content["serial"]
        path.write_text(json.dumps({**content, "schema": 2}, indent=1, sort_keys=True), encoding="utf-8")
        self.expected = asdict(checkpoint.read_info(self.latest))

    def flip(self, path: Path, bit: int) -> str:
        """Flip one bit, look, and put it back; what came of it."""
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            return self._look()
        finally:
            path.write_bytes(whole)

    def _look(self) -> str:
        found, notes = checkpoint.find("auto", self.run)
        model, info, skipped = checkpoint.find_model(self.run)
        if model != found or notes != skipped:
            return "WRONG"
        if found == self.latest:
            return "identical" if asdict(info) == self.expected else "WRONG"
        if (
            found != self.previous
            or not skipped
            or any("\n" in note or str(self.latest) not in note for note in skipped)
        ):
            return "WRONG"
        try:
            checkpoint.find(str(self.latest), self.run)
        except ValueError as error:
            return "found" if "\n" not in str(error) else "WRONG"
        return "WRONG"


def bits_of(path: Path, draw: random.Random) -> Iterator[int]:
    """Every bit of a manifest, in an order of its own; any of a weight file for ever."""
    count = 8 * path.stat().st_size
    if path.name == MANIFEST:
        yield from draw.sample(range(count), count)
        return
    assert zipfile.is_zipfile(path)
    while True:
        yield draw.randrange(count)


def attack(flips: Flips, path: Path, kind: str, seconds: float, draw: random.Random) -> Counter[str]:
    """Flip bits of one file until time is over or all were flipped; prints and returns the counts."""
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for bit in bits_of(path, draw):
        if time.monotonic() > end:
            break
        result = flips.flip(path, bit)
        counts[result] += 1
        if result == "WRONG" and read_manifest(flips.latest).has_checksum:
            print(f"{kind}: bit {bit} of {path.name} is WRONG", flush=True)
    print(
        f"{kind}: {counts.total():,} flips: " + ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items())),
        flush=True,
    )
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Flip bits of checkpoints.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    work = Path(tempfile.mkdtemp(prefix="flips"))
    try:
        flips = Flips(work)
        share = arguments.seconds / 4
        total = attack(flips, flips.latest / MANIFEST, "manifest", share, draw)
        for name in (MODEL, OPTIMIZER):
            total += attack(flips, flips.latest / name, name, share, draw)
        flips.as_older_version()
        older = attack(flips, flips.latest / MANIFEST, "manifest without a checksum, of an older version", share, draw)
        print(f"{total.total() + older.total():,} flips in all")
        read_manifest(flips.latest)
    finally:
        shutil.rmtree(work)
    if total["WRONG"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
