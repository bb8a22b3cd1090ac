"""Kills commands of pipeline that write at random moments, starts them again, and checks that nothing is lost or half.

    python tests/tools/kill_commands.py --rounds 60 [--commands align,export,tag] [--seed N]
    python tests/tools/kill_commands.py --each [--commands export,replace]

Each round starts a command in a new folder, or in one that holds an older result, and kills all of it (SIGKILL), once or twice:
half of the times at a moment of its whole duration, the others as it opens, renames or removes a file there, or right after.
What it reads must be as it was; what has its final name must be the old file or the finished one, byte for byte; standard
output must be the beginning of an undisturbed command's. Then the same command, with the words that its one line asks for,
comes to its end and leaves what an undisturbed one leaves, no file more. With --each it is killed at every operation on a
file in turn. The commands are forked from a process that has imported what they need, which spares them seconds. The first
difference ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[0] = str(REPOSITORY)
sys.path.insert(1, str(REPOSITORY / "kernels"))
os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

try:
    import pytest  # noqa: F401 (what follows is the tests' own)
except ModuleNotFoundError:
    sys.exit("error: the package pytest is not installed; `./launch.sh test --version` installs what the tests need")

from tests.tools.commands_to_kill import Command, Contents, bytes_under, commands, make_inputs  # noqa: E402
from tests.tools.forked_command import END_SECONDS, Ended, Fork, command_line, preload  # noqa: E402

SHORT_SECONDS = 0.005
"""After a file's operation."""
MOST_KILLS = 2
KEPT = Path(tempfile.gettempdir())
"""Where the folder of a round that failed is kept."""


@dataclass
class Attack:
    """One command's undisturbed result, and rounds against it."""

    command: Command
    work: Path
    inputs: Contents
    straight: Ended
    expected: Contents
    old: Contents

    @classmethod
    def prepared(cls, command: Command, work: Path, inputs: Contents) -> Attack:
        attack = cls(command, work, inputs, Ended(0, b"", "", 0, 0), {}, {})
        if command.old:
            attack._fresh(with_old=False)
            attack._run(list(command.old))
            attack.old = bytes_under(attack.folder)
        attack._fresh(with_old=False)
        attack.straight = attack._run(list(command.words))
        attack.expected = attack._told()
        attack._fresh(with_old=bool(command.old))
        again = attack._run(list(command.words))
        attack._compare(again.out)
        if command.always_old:
            attack.straight.changes = again.changes
        return attack

    @property
    def folder(self) -> Path:
        """Where rounds are played; the same for all, so that paths in files are."""
        return self.work / "round"

    def round(self, draw: random.Random, at: int) -> tuple[int, str]:
        """Play one; how many kills met a running command, and what to say of it. at: kill once, at this operation; 0: draw."""
        finds = bool(self.command.old) and (self.command.always_old or draw.random() < 0.5)
        self._fresh(finds)
        told: list[str] = []
        for _ in range(1 if at else draw.randint(1, MOST_KILLS)):
            where, ended = self._kill(draw, at)
            if ended.code >= 0:
                break
            told.append(f"{where}, {self._check(ended, finds)}")
        self._finish(ended if ended.code >= 0 else Fork(self.folder, command_line([*self.command.words])).wait())
        return len(told), f"{self.command.name}{' over old' if finds else ''}: {'; '.join(told) or 'had ended'}"

    def _fresh(self, with_old: bool) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if self.command.needs:
            shutil.copytree(self.work / "inputs" / self.command.needs, self.folder / self.command.needs)
        for name, content in self.old.items() if with_old else ():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _run(self, words: list[str]) -> Ended:
        ended = Fork(self.folder, command_line(words)).wait()
        if ended.code:
            self._fail(f"{' '.join(words)}: exit code {ended.code}: {ended.err}")
        return ended

    def _kill(self, draw: random.Random, at: int) -> tuple[str, Ended]:
        """Start it and kill it; where, and how it had ended."""
        words = list(self.command.words)
        changes = self.straight.changes
        drawn = "moment" if not changes or draw.random() < 0.5 else draw.choice(("at", "after"))
        kind, number = "at" if at else drawn, at or draw.randint(1, max(changes, 1))
        fork = Fork(self.folder, command_line(words), number if kind == "at" else 0)
        end = fork.began + (draw.uniform(0, self.straight.seconds) if kind == "moment" else END_SECONDS)
        while fork.runs() and time.monotonic() < end and (kind == "moment" or fork.changes < number):
            pass
        pause = time.monotonic() + (draw.uniform(0, SHORT_SECONDS) if kind == "after" else 0)
        while fork.status is None and fork.runs() and time.monotonic() < pause:
            pass
        if fork.status is None:
            fork.kill()
        ended = fork.ended()
        when = f"{ended.seconds:.2f} s" if kind == "moment" else f"{kind} file operation {number}"
        return f"killed {when} of {self.straight.seconds:.2f} s, {self.straight.changes}", ended

    def _check(self, ended: Ended, found_old: bool) -> str:
        """What a killed command left; how much is there."""
        self._check_inputs()
        begun_well = self.command.says_what_it_finds or self.straight.out.startswith(ended.out)
        if "Traceback" in ended.err or not begun_well:
            self._fail(f"a killed command printed {ended.out[-200:]!r}, {ended.err}")
        found = self._told()
        for name, content in found.items():
            whole = content in (self.expected.get(name), self.old.get(name)) or self._has_grown(name, content)
            if not whole and not self._is_unsealed(name):
                self._fail(f"{name}: is neither the old file nor the finished one ({len(content)} bytes)")
        if found_old and not all(self._has(name, found) for name in self.old):
            self._fail(f"of the old files {sorted(set(self.old) - set(found))[:3]} are gone")
        return f"{sum(name in self.expected for name in found)} of {len(self.expected)} files"

    def _has(self, name: str, found: Contents) -> bool:
        """Whether a file of the old result is there, or moved aside, from where the next start puts it back."""
        if name in found or name not in self.expected:
            return True
        top, _, rest = name.partition("/")
        return any(path.read_bytes() == self.old[name] for path in self.folder.glob(f".{top}.*.replaced/{rest}"))

    def _has_grown(self, name: str, content: bytes) -> bool:
        """Whether a file that grows holds the first of the finished one's runs."""
        if name != self.command.grows:
            return False
        runs = json.loads(content)["runs"]
        return bool(runs) and runs == json.loads(self.expected[name])["runs"][: len(runs)]

    def _is_unsealed(self, name: str) -> bool:
        if (self.folder / name).is_dir():  # and empty
            return True
        hidden = any(part.startswith(".") for part in Path(name).parts)
        return hidden or any(f"{name}/".startswith(f"{folder}/") for folder in self.command.unsealed)

    def _check_inputs(self) -> None:
        now = bytes_under(self.work / "inputs")
        if now != self.inputs:
            names = [name for name in now.keys() | self.inputs.keys() if now.get(name) != self.inputs.get(name)]
            self._fail(f"inputs are not as they were: {sorted(names)[:5]}")

    def _check_refusal(self, ended: Ended) -> list[str]:
        """The words that a start which was refused asks for; nothing where it was not, or where all is done."""
        if not ended.code:
            return []
        errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        asked = [words for what, words in self.command.further.items() if what in "".join(errors)]
        if "Traceback" in ended.err or len(errors) != 1 or not (asked or self._told() == self.expected):
            self._fail(f"started again, it ends with exit code {ended.code}: {ended.err}")
        return asked[0] if asked else []

    def _finish(self, ended: Ended) -> None:
        """A start that nobody killed came to this end: compare, after another one with the words that it asks for."""
        if more := self._check_refusal(ended):
            ended = self._run([*self.command.words, *more])
        self._check_inputs()
        self._compare(self.straight.out if ended.code else ended.out)

    def _told(self) -> Contents:
        """What the folder holds, without what is never the same twice."""
        found = bytes_under(self.folder)
        untold = self.command.untold
        return {name: content for name, content in found.items() if not name.startswith(untold or "\0")}

    def _compare(self, out: bytes) -> None:
        found, expected = self._told(), self.expected
        if found != expected:
            names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            self._fail(f"not what an undisturbed command leaves: {names[:5]}")
        if not self.command.says_what_it_finds and out != self.straight.out:
            self._fail(f"not the output of an undisturbed command: {out[-300:]!r}")
        if left := os.listdir(tempfile.gettempdir()):
            self._fail(f"left among temporary files: {left[:5]}")

    def _fail(self, what: str) -> None:
        kept = KEPT / f"kill_commands-{os.getpid()}"
        shutil.copytree(self.folder, kept, dirs_exist_ok=True)
        raise SystemExit(f"FAILED: {self.command.name}: {what}; the folder is kept as {kept}")


def rounds(work: Path, count: int, each: bool, names: list[str], seed: int) -> collections.Counter[str]:
    """Play the rounds, or with `each` one for every operation; how many kills met a running command, by its name."""
    draw, kills = random.Random(seed), collections.Counter[str]()
    if code := Fork(work, lambda: make_inputs(work)).wait().code:
        raise SystemExit(f"FAILED: the inputs were not made: exit code {code}, {work.with_name(work.name + '.err')}")
    inputs = bytes_under(work / "inputs")
    attacks = []
    for name in names:
        attacks.append(Attack.prepared(commands()[name], work, inputs))
        straight = attacks[-1].straight
        print(f"{name}: {straight.seconds:.2f} s, {straight.changes} file operations undisturbed", flush=True)
    played = list(zip(itertools.cycle(attacks), [0] * count, strict=False))
    if each:
        played = [(attack, at) for attack in attacks for at in range(1, attack.straight.changes + 1)]
    for number, (attack, at) in enumerate(played):
        met, told = attack.round(draw, at)
        kills[attack.command.name] += met
        print(f"round {number + 1} {told}", flush=True)
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(commands())
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--commands", default=",".join(known), help="which, in turn")
    parser.add_argument("--each", action="store_true", help="in place of --rounds: once at every operation on a file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.commands.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"--commands: {', '.join(sorted(unknown))} is none of {', '.join(known)}")
    preload()
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        work = Path(place).resolve() / "work"
        work.mkdir()
        began = time.monotonic()
        kills = rounds(work, arguments.rounds, arguments.each, names, arguments.seed)
        took = time.monotonic() - began
    by_name = ", ".join(f"{name} {count}" for name, count in kills.items())
    total = sum(kills.values())
    print(f"{total} kills of a running command ({by_name}), {took:.0f} s: nothing lost, nothing half")


if __name__ == "__main__":
    main()
