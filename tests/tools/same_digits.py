"""Shows that a change left training as it was: this tree and another commit train the same, and the digits are compared.

    python tests/tools/same_digits.py COMMIT [--steps 50] [--config pipeline/configs/benchmark.yaml] [key=value …]

Both train from scratch on the quickstart's corpus, on two ranks on the CPU, with the config that both have. Every line of
metrics must have the same losses, norms and rates to the last digit, and the exported weights must be equal byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_COMPARED = ("seconds", "tokens_per_second", "tflops", "utilisation", "peak_memory", "time")
"""What depends on the machine and its load: names that begin so."""


class Tree:
    """A version of this repository, whose commands are run."""

    def __init__(self, root: Path, out: Path) -> None:
        self.root, self.out = root, out
        path = os.pathsep.join([str(root), str(root / "kernels")])
        self.environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(self, *words: str | Path) -> None:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"FAILED: {' '.join(map(str, words))}, in {self.root}\n{done.stdout}\n{done.stderr}")

    def train(self, data: Path, options: argparse.Namespace) -> None:
        launcher = ["-m", "pipeline.cluster.launch", "train", options.config, "--num_accelerators", "2"]
        settings = [f"data.path={data}", f"run.out={self.out / 'run'}", f"run.steps={options.steps}", "run.log_every=1"]
        self.run(sys.executable, *launcher, *settings, *options.overrides)
        checkpoint = self.out / "run" / "checkpoints" / f"step_{options.steps:08d}"
        self.run(sys.executable, "-m", "pipeline", "export", checkpoint, self.out / "model")

    def lines(self) -> list[dict[str, Any]]:
        """Lines of metrics with a step's losses, without what depends on the machine."""
        text = (self.out / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        found = [line for line in map(json.loads, text.splitlines()) if any(name.endswith("_loss") for name in line)]
        return [{name: line[name] for name in line if not name.startswith(NOT_COMPARED)} for line in found]

    def weights(self) -> dict[str, str]:
        files = sorted((self.out / "model").glob("*.safetensors"))
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def unpacked(commit: str, folder: Path) -> Path:
    """The files of a commit."""
    done = subprocess.run(["git", "-C", REPOSITORY, "archive", commit], capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {commit}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--config", default="pipeline/configs/benchmark.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        here, there = (Tree(REPOSITORY, work / "here"), Tree(unpacked(options.commit, work / "there"), work / "before"))
        here.run(sys.executable, "-m", "pipeline", "quickstart", "--out", work / "corpus", "--steps", "1")
        for tree in (there, here):
            tree.train(work / "corpus" / "data", options)
        return compare(there, here, options.commit)


def compare(before: Tree, after: Tree, commit: str) -> int:
    """Tell the first difference; exit code 1 where there is one."""
    for old, new in zip(before.lines(), after.lines(), strict=True):
        shared = old.keys() & new.keys()
        different = sorted(name for name in shared if old[name] != new[name])
        if different:
            name = different[0]
            print(f"step {old['step']}: {name} was {old[name]!r}, is {new[name]!r}", file=sys.stderr)
            return 1
    if before.weights() != after.weights():
        print("the exported weights differ", file=sys.stderr)
        return 1
    assert before.weights(), "weights were exported"
    print(f"{len(after.lines())} lines of metrics and the weights are those of {commit}, to the last digit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
