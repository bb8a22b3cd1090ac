"""Kills commands of data_prep at random moments, over and over, and checks that nothing is lost and nothing lies.

    python tests/tools/kill_data_prep.py --rounds 50 --modes single,pool,mpi,merge,link,export,rechunk,tokenizer [--seed N]

The first three are `mono` with one worker, with several, and on two ranks. Each round takes a fresh folder, or one with older
data, and several times starts the command, kills all of it or one random process of it (SIGKILL) after a random time of work,
and checks the folder; then it lets the command finish. A manifest that a reader accepts must be the old one or the finished
one, with every shard as written; of other results a file that is there must be whole. The finished folder must have the bytes
of a command that nobody killed, and nothing may be left among temporary files. The first difference ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
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
from data_prep.token_files.manifest import MANIFEST_NAME, Manifest

WORKERS = {"single": 1, "pool": 3, "mpi": 2}
MODES = (*WORKERS, "merge", "link", "export", "rechunk", "tokenizer")
KILLS = 3
END_SECONDS = 30
POLL_SECONDS = 0.003
TICK_SECONDS = 0.02  # the system counts work in hundredths of a second
STARTING = 0.6  # seconds of work before a command begins with its own
STALE = ("not what the shards' markers say", "manifest.json: no such file")
REPEATS = 100  # of a text, so that to write or read it takes a while
VOCABULARY = 400

Contents = dict[str, bytes]


@dataclass(frozen=True)
class Inputs:
    """What the commands read, below one folder."""

    work: Path

    @property
    def long_text(self) -> Path:
        """To work on it takes a while."""
        return self.work / "long.txt"

    @property
    def texts(self) -> list[Path]:
        """One plain, one compressed."""
        return [self.work / "sample" / "mono" / name for name in ("qaa.txt", "qab.txt.xz")]

    @property
    def parts(self) -> list[Path]:
        """Data folders, each of one of the texts."""
        return [self.work / "part-0", self.work / "part-1"]

    def mono(self, texts: list[Path], out: Path, workers: int = 1, shard_bytes: int = 1500) -> list[str]:
        """The words of `mono`."""
        options = ["--lang", "qaa", "--tokenizer", str(self.work / "tokenizer"), "--out", str(out)]
        return ["mono", *map(str, texts), *options, "--workers", str(workers), "--shard-bytes", str(shard_bytes)]

    def tokenizer(self, out: Path) -> list[str]:
        """The words of `tokenizer train`."""
        texts = sorted(map(str, (self.work / "sample" / "mono").glob("*.txt")))
        return ["tokenizer", "train", *texts, "--vocab-size", str(VOCABULARY), "--out", str(out)]

    def make(self, modes: list[str]) -> None:
        """Write what these modes need."""

        def run(words: list[str]) -> None:
            subprocess.run([sys.executable, "-m", "data_prep", *words], check=True, stdout=subprocess.DEVNULL)

        write_sample(self.work / "sample", 0)
        plain = self.work / "sample" / "mono" / "qab.txt"
        plain.with_name("qab.txt.xz").write_bytes(lzma.compress(plain.read_bytes()))
        self.long_text.write_bytes(plain.read_bytes() * REPEATS)
        run(self.tokenizer(self.work / "tokenizer"))
        if {"merge", "link"} & {*modes}:
            for text, part in zip(self.texts, self.parts, strict=True):
                run(self.mono([text], part))
        if "export" in modes:
            run(self.mono([self.long_text], self.work / "long", shard_bytes=1 << 16))
        if {*WORKERS} & {*modes}:
            run(self.mono(self.texts, self.work / "old", shard_bytes=4000))


@dataclass(frozen=True)
class Command:
    """The command that is killed, and the folder that it may find, with what an earlier one left."""

    inputs: Inputs
    mode: str

    @property
    def makes_data(self) -> bool:
        """Whether its result is a data folder."""
        return self.mode in (*WORKERS, "merge", "link")

    @property
    def found(self) -> Path | None:
        """What the output folder holds in some of the rounds."""
        if self.mode in WORKERS:
            return self.inputs.work / "old"
        return self.inputs.parts[0] if self.makes_data else None

    def line(self, out: Path) -> list[str]:
        """As the user starts it."""
        ranks = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2"] if self.mode == "mpi" else []
        return [*ranks, sys.executable, "-m", "data_prep", *self._words(out)]

    def _words(self, out: Path) -> list[str]:
        if self.mode in WORKERS:
            return self.inputs.mono(self.inputs.texts, out, WORKERS[self.mode])
        if self.mode == "tokenizer":
            return self.inputs.tokenizer(out)
        if self.mode == "rechunk":
            options = ["--frame-bytes", "5000", "--level", "9", "--workers", "2"]
            return ["rechunk", str(self.inputs.long_text), *map(str, self.inputs.texts), "--out", str(out), *options]
        if self.mode == "export":
            return ["export-fairseq", str(self.inputs.work / "long"), "--out", str(out)]
        link = ["--link"] if self.mode == "link" else []
        return ["merge", *map(str, self.inputs.parts), "--out", str(out), *link]

    def finish(self, out: Path) -> tuple[float, float]:
        """Run it undisturbed; seconds of work of all its processes until its output folder is there, and to its end."""
        with tempfile.TemporaryFile() as told:
            process = subprocess.Popen(self.line(out), stdout=told, stderr=told)
            begun, whole = 0.0, 0.0
            while process.poll() is None:
                whole = max(whole, family_of(process)[1])
                begun = begun or (whole if out.exists() else 0.0)
                time.sleep(POLL_SECONDS)
            told.seek(0)
            if process.returncode:
                raise SystemExit(f"FAILED: {out}: {' '.join(self.line(out))}: {told.read().decode()}")
        return begun or whole, whole

    def kill(self, out: Path, seconds: float, draw: random.Random) -> str:
        """Start it and kill it after so much work: all its processes or one of them. What was killed."""
        process = subprocess.Popen(self.line(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        family, worked = family_of(process)
        while process.poll() is None and worked < seconds:
            time.sleep(POLL_SECONDS)
            family, worked = family_of(process)
        time.sleep(draw.uniform(0, TICK_SECONDS))
        victims = family if draw.random() < 0.5 else draw.sample(family, min(1, len(family)))
        running = process.poll() is None
        for victim in victims:
            if victim.is_running():
                victim.send_signal(signal.SIGKILL)
        process.wait(END_SECONDS)
        _, alive = psutil.wait_procs(family[1:], END_SECONDS)
        if alive:
            raise SystemExit(f"FAILED: {alive} outlive the command by {END_SECONDS} s")
        return "nothing" if not running else "all" if len(victims) == len(family) else "one"


def family_of(process: subprocess.Popen[bytes]) -> tuple[list[psutil.Process], float]:
    """A process and all that it started, and the seconds that they have worked, which a busy machine does not change."""
    family, worked = [], 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            worked += sum(member.cpu_times()[:4])  # with those of its own that have ended
    return family, worked


def bytes_under(folder: Path) -> Contents:
    """Relative name → content of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_manifest(data_dir: Path, accepted: set[str]) -> str:
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


def check_files(folder: Path, expected: Contents) -> str:
    """Whether each file that is there under its own name is whole. How many there are."""
    found = {name: content for name, content in bytes_under(folder).items() if Path(name).name[0] != "."}
    if broken := sorted(name for name, content in found.items() if expected.get(name) != content):
        raise SystemExit(f"FAILED: {folder}: not whole: {broken[:5]}")
    return f"{len(found)} of {len(expected)} files"


@dataclass
class Attack:
    """One command's undisturbed result, and rounds against it."""

    command: Command
    folder: Path
    """Where rounds are played."""
    work: tuple[float, float]
    """See `Command.finish`."""
    expected: Contents
    accepted: set[str]
    """Manifests that readers may see meanwhile."""

    @classmethod
    def prepared(cls, inputs: Inputs, mode: str) -> Attack:
        command, straight = Command(inputs, mode), inputs.work / f"straight-{mode}"
        work = command.finish(straight)
        before = [folder for folder in (straight, command.found) if folder and (folder / MANIFEST_NAME).exists()]
        accepted = {Manifest.load(folder).digest() for folder in before}
        return cls(command, inputs.work / "killed", work, bytes_under(straight), accepted)

    def round(self, draw: random.Random) -> tuple[int, str]:
        """Play one; how many kills met a running command, and what to say of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        finds = self.command.found if draw.random() < 0.5 else None
        if finds:
            shutil.copytree(finds, self.folder)
        kills, told = 0, []
        for _ in range(KILLS):
            after = draw.uniform(draw.choice((STARTING, self.work[0])), self.work[1])
            killed = self.command.kill(self.folder, after, draw)
            seen = self._check()
            if finds and seen == "nothing":
                raise SystemExit(f"FAILED: {self.folder}: the old data is gone before the new is there")
            kills += killed != "nothing"
            told.append(f"{killed} after {after:.2f} s of work, readers see {seen}")
            if killed == "nothing":
                break
        self.command.finish(self.folder)
        self._compare()
        return kills, f"{self.command.mode}{' over old data' if finds else ''}: killed {'; '.join(told)}"

    def _check(self) -> str:
        makes_data = self.command.makes_data
        return check_manifest(self.folder, self.accepted) if makes_data else check_files(self.folder, self.expected)

    def _compare(self) -> None:
        found, expected = bytes_under(self.folder), self.expected
        if found != expected:
            names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise SystemExit(f"FAILED: {self.folder}: not the bytes of an undisturbed command: {names[:5]}")
        if self.command.makes_data and (problems := list(find_problems(self.folder))):
            raise SystemExit(f"FAILED: {self.folder}: {problems}")
        if left := os.listdir(tempfile.gettempdir()):
            raise SystemExit(f"FAILED: left among temporary files: {left[:5]}")


def rounds(work: Path, count: int, modes: list[str], seed: int) -> int:
    """Play the rounds; how many kills met a running command."""
    draw, kills, inputs = random.Random(seed), 0, Inputs(work)
    inputs.make(modes)
    attacks = [Attack.prepared(inputs, mode) for mode in modes]
    for number, attack in zip(range(count), itertools.cycle(attacks), strict=False):
        met, told = attack.round(draw)
        kills += met
        print(f"round {number + 1} {told}", flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    modes = arguments.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"--modes: {', '.join(sorted(unknown))} is none of {', '.join(MODES)}")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        began = time.monotonic()
        kills = rounds(Path(work), arguments.rounds, modes, arguments.seed)
        took = time.monotonic() - began
    print(f"{arguments.rounds} rounds, {kills} kills of a running command, {took:.0f} s: all folders whole")


if __name__ == "__main__":
    main()
