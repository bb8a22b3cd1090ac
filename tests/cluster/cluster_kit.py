"""A box with a tiny corpus and a way to run commands on its hosts: for the tests on several hosts, and `survive.py`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 240  # a cold start compiles DeepSpeed's communication first
JOB_WORDS = ("pipeline", "deepspeed", "pdsh", "mpi", "hydra", "data_prep")

specification = importlib.util.spec_from_file_location("box", Path(__file__).with_name("box.py"))
assert specification and specification.loader
box_module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(box_module)


@dataclass
class Started:
    """A command on a host: its output so far, its end, and signals to it (not to nsenter, which goes between)."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.process.kill()

    def wait_for(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.poll() is None, f"ended too early:\n{self.output}"
            assert time.monotonic() < end, f"nothing happened:\n{self.output}"
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        psutil.Process(self.process.pid).children()[0].send_signal(number)


@dataclass
class Cluster:
    """The box, and the folder in which commands run on its hosts."""

    box: Any
    folder: Path
    config: Path
    count: int = 0

    def hostfile(self, *lines: str) -> Path:
        """A hostfile with these lines, or with a slot on each of the first N hosts for `hostfile(N)`."""
        self.count += 1
        path = self.folder / f"hosts{self.count}"
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def hosts(self, count: int) -> Path:
        return self.hostfile(*(f"{node} slots=1" for node in self.box.nodes[:count]))

    def start(self, node: str, *words: object, **environment: str) -> Started:
        self.count += 1
        log = self.folder / f"log{self.count}"
        tools = Path(sys.executable).parent
        variables = {
            **os.environ,
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'kernels'}",
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.box.command(node, *words, folder=self.folder),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=variables,
            )  # fmt: skip
        return Started(process, log)

    def train(self, node: str, *words: object) -> Started:
        """`./launch.sh train CONFIG words…` on a host."""
        return self.start(node, sys.executable, "-m", "pipeline.cluster.launch", "train", self.config, *words)

    def left_running(self, limit: float = 0) -> list[str]:
        """What still runs of jobs on any host, after at most `limit` seconds' wait for it to end."""
        end = time.monotonic() + limit
        while True:
            commands = [(node, c) for node in self.box.nodes for c in self.box.processes(node).values()]
            left = [f"{node}: {c}" for node, c in commands if any(word in c for word in JOB_WORDS)]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.2)

    def losses(self, run: Path) -> dict[int, list[float]]:
        lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        keys = ("mlm_loss", "tlm_loss", "dwa_loss")
        return {line["step"]: [line[key] for key in keys] for line in lines if line["kind"] == "train"}


def make_corpus(folder: Path) -> Path:
    """Sample, tokenizer, token files by the documented commands; returns the config."""

    def data_prep(*words: object) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "data_prep", *map(str, words)], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    data_prep("sample", "--out", "sample")
    data_prep(
        "tokenizer", "train", "sample/mono/qaa.txt", "sample/mono/qab.txt", "--vocab-size", 300, "--out", "tokenizer"
    )
    to = ("--tokenizer", "tokenizer", "--out", "data")
    data_prep("mono", "sample/mono/qaa.txt", "--lang", "qaa", *to)
    pair = [f"sample/parallel/train.qaa-qab.{language}" for language in ("qaa", "qab")]
    data_prep("parallel", *pair, "--pair", "qaa-qab", *to)
    settings = {
        "data": {"path": "data", "block_tokens": 64, "side_tokens": 30},
        "model": {"layers": 2, "hidden": 64, "heads": 2, "feed_forward": 128},
        "objectives": {"dwa": {"alignment_layer": 1}},
        "batch": {"mono": 12, "pairs": 24},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2, "clip": 0.5},
        "validation": {"every": 0},
        "run": {"out": "run", "steps": 12, "save_every": 6, "log_every": 1},
        "deepspeed": str(REPOSITORY / "ds_configs" / "zero2_fp32.json"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "config.yaml"
