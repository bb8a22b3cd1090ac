"""Kills runs of data_prep at random moments, over and over, and checks that nothing is lost and nothing lies.

    python tests/tools/kill_data_prep.py --rounds 50 --modes single,pool,mpi [--seed N]

Each round takes a fresh folder, or one whose data was made with other settings, and several times starts the run, kills
all of it or one random process of it (SIGKILL) after a random time, and checks the folder; then it lets the run finish. A
manifest that a reader accepts must be the old one or the finished one, with every shard as written, and the finished
folder must have the bytes of a run that nobody killed. One line a round; the first difference ends it with exit code 1.
"""

import argparse
import itertools
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from data_prep.data_dir.verify import find_problems
from data_prep.sample import write_sample
from data_prep.token_files.manifest import Manifest

MODES = {
    "single": ("--workers", "1"),
    "pool": ("--workers", "3"),
    "mpi": ("--workers", "2"),
}
KILLS = 3
END_SECONDS = 30
STALE = ("not what the shards' markers say", "manifest.json: no such file")


@dataclass(frozen=True)
class Job:
    """The command that is killed, and what it must lead to."""

    work: Path
    mode: str

    def command(self, data_dir: Path, shard_bytes: int = 1500) -> list[str]:
        """The run as the user starts it."""
        ranks = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"] if self.mode == "mpi" else []
        files = [str(self.work / "sample" / "mono" / name) for name in ("qaa.txt", "qab.txt.xz")]
        options = ["--lang", "qaa", "--tokenizer", str(self.work / "tokenizer"), "--out", str(data_dir)]
        arguments = [*files, *options, *MODES[self.mode], "--shard-bytes", str(shard_bytes)]
        return [*ranks, sys.executable, "-m", "data_prep", "mono", *arguments]

    def finish(self, data_dir: Path, shard_bytes: int = 1500) -> float:
        """Run it undisturbed; the seconds that it took."""
        began = time.monotonic()
        subprocess.run(self.command(data_dir, shard_bytes), check=True, capture_output=True)
        return time.monotonic() - began

    def kill(self, data_dir: Path, seconds: float, draw: random.Random) -> str:
        """Start it and kill it after so long: all its processes or one of them. What was killed."""
        process = subprocess.Popen(self.command(data_dir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        victims = family if draw.random() < 0.5 else draw.sample(family, min(1, len(family)))
        running = process.poll() is None
        for victim in victims:
            if victim.is_running():
                victim.send_signal(signal.SIGKILL)
        process.wait(END_SECONDS)
        _, alive = psutil.wait_procs(family[1:], END_SECONDS)
        if alive:
            raise SystemExit(f"FAILED: {alive} outlive the job by {END_SECONDS} s")
        if not running:
            return "nothing"
        return "all" if len(victims) == len(family) else "one"


def bytes_under(folder: Path) -> dict[str, bytes]:
    """Relative name → content of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(data_dir: Path, accepted: set[str]) -> str:
    """Whether what readers would accept is whole. What they would: "nothing" or a manifest."""
    if not data_dir.exists():
        return "nothing"
    problems = [problem for problem in find_problems(data_dir) if not any(part in problem for part in STALE)]
    try:
        digest = Manifest.load(data_dir).digest()
    except ValueError as error:
        if "manifest.json: no such file" not in str(error):
            raise SystemExit(f"FAILED: {data_dir}: {error}") from None
        return "nothing"
    if digest not in accepted or problems:
        raise SystemExit(f"FAILED: {data_dir}: accepted manifest {digest} of {accepted}, problems {problems}")
    return digest[:8]


def rounds(work: Path, count: int, modes: list[str], seed: int) -> int:
    """Play the rounds; how many kills met a running job."""
    draw, kills = random.Random(seed), 0
    write_sample(work / "sample", 0)
    plain = work / "sample" / "mono" / "qab.txt"
    plain.with_name("qab.txt.xz").write_bytes(lzma.compress(plain.read_bytes()))
    text = [str(path) for path in sorted((work / "sample" / "mono").glob("*.txt"))]
    train = ["tokenizer", "train", *text, "--vocab-size", "400", "--out", str(work / "tokenizer")]
    subprocess.run([sys.executable, "-m", "data_prep", *train], check=True, stdout=subprocess.DEVNULL)
    jobs = [Job(work, mode) for mode in modes]
    seconds = {job.mode: job.finish(work / f"straight-{job.mode}") for job in jobs}
    jobs[0].finish(work / "old", shard_bytes=4000)
    expected = bytes_under(work / f"straight-{modes[0]}")
    digests = {Manifest.load(work / name).digest() for name in (f"straight-{modes[0]}", "old")}
    for number, job in zip(range(count), itertools.cycle(jobs), strict=False):
        data_dir = work / "killed"
        shutil.rmtree(data_dir, ignore_errors=True)
        replaces = draw.random() < 0.5
        if replaces:
            shutil.copytree(work / "old", data_dir)
        told = []
        for _ in range(KILLS):
            after = draw.uniform(0, 1.1 * seconds[job.mode])
            killed = job.kill(data_dir, after, draw)
            seen = check(data_dir, digests)
            if replaces and seen == "nothing":
                raise SystemExit(f"FAILED: {data_dir}: the old data is gone before the new is there")
            kills += killed != "nothing"
            told.append(f"{killed} after {after:.2f} s, readers see {seen}")
        job.finish(data_dir)
        found = bytes_under(data_dir)
        if found != expected:
            names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise SystemExit(f"FAILED: {data_dir}: not the bytes of an undisturbed run: {names[:5]}")
        print(
            f"round {number + 1} {job.mode}{' over old data' if replaces else ''}: killed {'; '.join(told)}", flush=True
        )
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--modes", default="single,pool,mpi")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    modes = arguments.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"--modes: {', '.join(sorted(unknown))} is none of {', '.join(MODES)}")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as work:
        began = time.monotonic()
        kills = rounds(Path(work), arguments.rounds, modes, arguments.seed)
        took = time.monotonic() - began
    print(f"{arguments.rounds} rounds, {kills} kills of a running job, {took:.0f} s: all folders whole")


if __name__ == "__main__":
    main()
