"""What the end-to-end tests share: a tiny corpus made by the commands of data_prep, and a way to start training.

Everything runs as a user would run it, in processes of its own; no test reaches into a running one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN = REPOSITORY / "pipeline" / "train.py"
PATIENCE_SECONDS = 240  # a cold start compiles DeepSpeed's communication first
WORKER_SECONDS = 540  # dozens of runs


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@dataclass
class Finished:
    """How a command ended."""

    code: int
    output: str

    @property
    def errors(self) -> list[str]:
        """The lines meant for the user whose mistake ended it."""
        return [line for line in self.output.splitlines() if line.startswith("error: ")]


@dataclass
class Running:
    """A started command, alone with its children in a process group."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def wait(self, patience: int = PATIENCE_SECONDS) -> Finished:
        try:
            code = self.process.wait(patience)
        finally:
            self.kill()
        return Finished(code, self.log.read_text(encoding="utf-8"))

    def kill(self) -> None:
        """SIGKILL what is left of the group and of sessions it started; remove what DeepSpeed leaves in shared memory."""
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait()
        for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{self.port}_*"):
            buffer.unlink()

    def rank_processes(self) -> list[psutil.Process]:
        """The ranks, in order."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        ranks = {}
        for child in children:
            options = [word for word in child.cmdline() if word.startswith("--local_rank=")]
            if options:
                ranks[int(options[0].partition("=")[2])] = child
        return [ranks[rank] for rank in sorted(ranks)]

    def wait_for(self, happened: Callable[[], bool]) -> None:
        """Return as soon as `happened()`; fails if the command ends, or patience does, before that."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, f"ended too early:\n{self.log.read_text(encoding='utf-8')}"
            assert time.monotonic() < end, f"nothing happened:\n{self.log.read_text(encoding='utf-8')}"
            time.sleep(0.005)


@dataclass
class Launcher:
    """Starts training processes on the CPU."""

    logs: Path
    started: list[Running] = field(default_factory=list)

    def deepspeed(self, ranks: int, script: Path, *arguments: object) -> Running:
        """`deepspeed --num_accelerators RANKS SCRIPT ARGUMENTS…`"""
        port = free_port()
        command = ["deepspeed", "--num_accelerators", ranks, "--master_port", port, script, *arguments]
        return self._start(command, port, {})

    def train(self, ranks: int, config: Path, *arguments: object) -> Finished:
        """Run the training command to its end."""
        return self.deepspeed(ranks, TRAIN, "--config", config, *arguments).wait()

    def one_rank(self, *arguments: object, port: int | None = None) -> Finished:
        """Run train.py as the only rank, without the launcher's seconds."""
        return self.start_one_rank(*arguments, port=port).wait()

    def start_one_rank(self, *arguments: object, port: int | None = None) -> Running:
        port = port or free_port()
        world = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return self._start([sys.executable, TRAIN, *arguments], port, world)

    def step_worker(self, script: Path, *arguments: object) -> Finished:
        """Run a script that forks its ranks itself (see `forked`), and is told a port for them."""
        port = free_port()
        command = [sys.executable, script, *arguments, "--port", port]
        return self._start(command, port, {"PYTHONPATH": REPOSITORY}).wait(WORKER_SECONDS)

    def _start(self, command: list[object], port: int, world: dict[str, object]) -> Running:
        tools = Path(sys.executable).parent  # not resolved: a virtual environment's python is a link
        environment = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            **{name: str(value) for name, value in world.items()},
        }
        log = self.logs / f"port_{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.logs,
                start_new_session=True,
            )
        running = Running(process, log, port)
        self.started.append(running)
        return running


@dataclass(frozen=True)
class Corpus:
    """A small corpus in two languages and its config; folders are absolute."""

    data: Path
    other_tokenizer_data: Path
    config: Path


def make_corpus(root: Path) -> Corpus:
    """Sample, tokenizer, token files and a config, made by the commands in their documented order."""

    def data_prep(*arguments: object) -> None:
        command = [sys.executable, "-m", "data_prep", *(str(argument) for argument in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
        assert done.returncode == 0, done.stderr

    data_prep("sample", "--out", "sample")
    mono = {language: f"sample/mono/{language}.txt" for language in ("qaa", "qab")}
    pair = [f"sample/parallel/train.qaa-qab.{language}" for language in ("qaa", "qab")]
    data_prep("tokenizer", "train", *mono.values(), "--vocab-size", 300, "--out", "tokenizer")
    for language, path in mono.items():
        data_prep("mono", path, "--lang", language, "--tokenizer", "tokenizer", "--out", "data")
    data_prep("parallel", *pair, "--pair", "qaa-qab", "--tokenizer", "tokenizer", "--out", "data")

    data_prep("tokenizer", "train", mono["qab"], "--vocab-size", 250, "--out", "other_tokenizer")
    data_prep("mono", mono["qab"], "--lang", "qab", "--tokenizer", "other_tokenizer", "--out", "other_data")

    config = {
        "data": {"path": str(root / "data"), "block_tokens": 64, "side_tokens": 30},
        "model": {"layers": 2, "hidden": 64, "heads": 2, "feed_forward": 128},
        "objectives": {"dwa": {"alignment_layer": 1}},
        "batch": {"mono": 8, "pairs": 16},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2, "clip": 0.5},
        "validation": {"every": 0},
        "run": {"out": str(root / "run"), "steps": 20, "log_every": 1},
        "deepspeed": str(REPOSITORY / "ds_configs" / "zero2_fp32.json"),
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return Corpus(root / "data", root / "other_data", root / "config.yaml")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus that all end-to-end tests train on."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts training; what still runs when the tests end is killed."""
    launcher = Launcher(tmp_path_factory.mktemp("logs"))
    yield launcher
    for running in launcher.started:
        if running.process.poll() is None:
            running.kill()


def read_lines(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's metrics.jsonl, in the order in which they were written."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path, str], dict[int, dict[str, Any]]]:
    """The lines of one kind in a run's metrics.jsonl by step; a step that was done again counts as it was last."""
    return lambda run, kind: {line["step"]: line for line in read_lines(run, kind)}
