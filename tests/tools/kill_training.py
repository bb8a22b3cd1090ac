"""Kills a training run at random moments, also while it saves, resumes it, and compares it with one that nobody killed.

    python tests/tools/kill_training.py --rounds 20 [--stage 0-3] [--seed N]

Each round starts the run with `--resume auto`, on two ranks on the CPU, and kills launcher and ranks (SIGKILL): half of the
rounds right after a checkpoint's folder appeared, the others at any moment of the start or of the steps. What is left must
be whole: every sealed checkpoint verifies, and the last one is where the next start goes on. A run that reaches its last step
is followed by a new one, and a start that was not killed in time does not count. Every line of metrics, steps that were done
again included, must be the straight run's bit for bit. One line a round; the first difference ends it with exit code 1.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[0] = str(REPOSITORY)
os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "kernels")])

from pipeline.checkpoints import checkpoint  # noqa: E402

try:
    import pytest  # noqa: F401 (what follows is the tests' own)
except ModuleNotFoundError:
    sys.exit("error: the package pytest is not installed; `./launch.sh test --version` installs what the tests need")

from tests.end_to_end.conftest import TRAIN, Launcher, Running, make_corpus, read_lines  # noqa: E402

RANKS, STEPS, SAVE_EVERY = 2, 60, 2
COMPARED = ("mlm_loss", "tlm_loss", "dwa_loss", "dwa_links_per_pair", "contrast_loss", "gradient_norm", "lr")
NOT_TOLD = "gradient_norm"
"""By DeepSpeed at stage 0 in fp32."""
LONGEST_SAVE_SECONDS = 0.05
CONTRAST = "{layer: 1, similarity: cosine, temperature: 0.05, queue: 64, momentum: 0.9}"
"""Its queue and slow encoder are state that no optimizer has, and every loss of it depends on them."""
NOT_KILLED = "done before it was killed"


class Killing:
    """One run after another, each killed until it is done."""

    def __init__(self, work: Path, stage: int, draw: random.Random) -> None:
        self.run, self.draw, self.launcher = work / "killed", draw, Launcher(work)
        self.names = [name for name in COMPARED if stage or name != NOT_TOLD]
        self.arguments = [
            *("--config", make_corpus(work).config, "--resume", "auto"),
            f"run.steps={STEPS}",
            f"run.save_every={SAVE_EVERY}",
            f"objectives.contrast={CONTRAST}",
            "batch.contrast=16",
            f"deepspeed={REPOSITORY / 'ds_configs' / f'zero{stage}_fp32.json'}",
        ]
        began = time.monotonic()
        straight = work / "straight"
        self.start(straight).wait()
        took = time.monotonic() - began
        steps = sum(line["seconds_per_step"] for line in read_lines(straight, "train"))
        self.seconds = {"start": took - steps, "steps": steps}
        self.expected = {line["step"]: self.compared(line) for line in read_lines(straight, "train")}
        if sorted(self.expected) != list(range(1, STEPS + 1)):
            raise SystemExit("FAILED: the straight run did not come to its end")

    def start(self, run: Path) -> Running:
        return self.launcher.deepspeed(RANKS, TRAIN, *self.arguments, f"run.out={run}")

    def kill(self) -> str:
        """Start or resume the run and kill it; where it was."""
        before = last_sealed(self.run)
        logged = len(self.lines())
        running = self.start(self.run)
        kind = self.draw.choices(("saving", "steps", "start"), (5, 3, 2))[0]
        if kind == "saving":
            self.wait_for_saving(running, self.draw.randint(1, max((STEPS - before) // SAVE_EVERY - 1, 1)))
            pause = self.draw.uniform(0, LONGEST_SAVE_SECONDS)
        elif kind == "steps":
            while running.process.poll() is None and len(self.lines()) == logged:
                time.sleep(0.01)
            pause = self.draw.uniform(0, self.seconds["steps"] * (1 - before / STEPS))
        else:
            pause = self.draw.uniform(0, self.seconds["start"])
        end = time.monotonic() + pause
        while running.process.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        ended = running.process.poll() is not None
        running.kill()
        where = NOT_KILLED if ended else "inside saving" if unsealed(self.run) else "elsewhere"
        return self.check(running, before, where)

    def lines(self) -> list[dict[str, Any]]:
        """The run's lines of metrics so far."""
        return read_lines(self.run, "train") if (self.run / "metrics.jsonl").exists() else []

    def wait_for_saving(self, running: Running, number: int) -> None:
        """Return when so many checkpoints were begun, or the run has ended."""
        begun: set[Path] = set()
        old = set(checkpoint.folder_of(self.run).glob("step_*"))
        while running.process.poll() is None and len(begun) < number:
            begun |= set(checkpoint.folder_of(self.run).glob("step_*")) - old
            time.sleep(0.001)

    def check(self, running: Running, before: int, where: str) -> str:
        """What a killed start left behind, and that it went on from the last checkpoint; `where`, with the steps."""
        output = running.log.read_text(encoding="utf-8")
        if "Traceback" in output or "error: " in output:
            raise SystemExit(f"FAILED: {output}")
        if before and "step " in output and f"continues from {sealed_folder(self.run, before)}" not in output:
            raise SystemExit(f"FAILED: step {before} was sealed, and the run did not go on from there: {output}")
        for manifest in checkpoint.folder_of(self.run).glob(f"step_*/{checkpoint.MANIFEST}"):
            checkpoint.read_info(manifest.parent)
        now = last_sealed(self.run)
        if now < before:
            raise SystemExit(f"FAILED: step {before} was sealed, {now} is the last one after the kill")
        self.compare()
        return f"{where}, sealed before {before}, after {now}"

    def compare(self) -> list[int]:
        """The steps that the run has logged, each of them as the straight run did."""
        lines = self.lines()
        for line in lines:
            found, expected = self.compared(line), self.expected[line["step"]]
            if found != expected:
                raise SystemExit(f"FAILED: step {line['step']}: {found}, not {expected}")
        return sorted({line["step"] for line in lines})

    def compared(self, line: dict[str, Any]) -> dict[str, float]:
        """What a line of metrics says of the model, the timings left out."""
        return {name: line[name] for name in self.names}

    def finish(self) -> None:
        """Resume the run to its end, compare it, and make room for a new one."""
        done = self.start(self.run).wait()
        if done.code or self.compare() != list(range(1, STEPS + 1)) or last_sealed(self.run) != STEPS:
            raise SystemExit(f"FAILED: the resumed run did not come to its end: {done.output}")
        shutil.rmtree(self.run)


def sealed_folder(run: Path, step: int) -> Path:
    return checkpoint.folder_of(run) / checkpoint.tag_of(step)


def last_sealed(run: Path) -> int:
    """The step of the last sealed checkpoint, 0 without any."""
    manifests = checkpoint.folder_of(run).glob(f"step_*/{checkpoint.MANIFEST}")
    return max((int(path.parent.name.removeprefix("step_")) for path in manifests), default=0)


def unsealed(run: Path) -> bool:
    """Whether a checkpoint was begun, or is being removed."""
    return any(not (folder / checkpoint.MANIFEST).exists() for folder in checkpoint.folder_of(run).glob("step_*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--stage", type=int, default=2, choices=range(4), help="ZeRO stage")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    met = {"inside saving": 0, "elsewhere": 0, NOT_KILLED: 0}
    with tempfile.TemporaryDirectory() as work:
        killing = Killing(Path(work), arguments.stage, random.Random(arguments.seed))
        while (kills := met["inside saving"] + met["elsewhere"]) < arguments.rounds:
            told = killing.kill()
            met[told.partition(",")[0]] += 1
            print(f"round {kills + 1}: {told}", flush=True)
            if last_sealed(killing.run) == STEPS:
                killing.finish()
        killing.finish()
    took = time.monotonic() - began
    print(f"{kills} kills, {met['inside saving']} inside saving, {took:.0f} s: the straight run's losses bit for bit")


if __name__ == "__main__":
    main()
