#!/usr/bin/env python3
"""Breaks runs on two hosts of a box at random moments and checks what `--keep-going` makes of it; run by hand, as root:

    python tests/cluster/survive.py [--times 10] [--seed 1] [--faults rank,launcher,mpiexec,crash,unplug,partition]
                                    [--json FILE]

For each fault: the seconds until the launcher said why it stopped, whether anything was left running 60 s later, and how far
the losses of the whole run are from those of a run that nothing happened to.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTITION_SECONDS = 30
STEPS, SAVE_EVERY = 240, 20
SETTINGS = (
    f"run.steps={STEPS}",
    f"run.save_every={SAVE_EVERY}",
    "batch.mono=48",
    "batch.pairs=192",
    "optimizer.lr=1e-4",
)
FAULTS = ("rank", "launcher", "mpiexec", "crash", "unplug", "partition")
PATIENCE_SECONDS = 60
VICTIM = "node1"
MPIEXEC = re.compile(r"(mpirun|mpiexec)[\w.]*$")


@dataclass
class Survived:
    """What became of one run."""

    fault: str
    at_step: int
    detected_seconds: float
    reason: str
    clean_seconds: float  # until nothing of the broken attempt ran on any host that can be looked into
    restarts: list[str]
    code: int
    largest_difference: float


def break_it(fault: str, cluster: Any) -> None:
    """Do the damage."""
    box = cluster.box
    processes = box.processes(VICTIM)
    if fault == "rank":
        os.kill(max(pid for pid, command in processes.items() if "pipeline/train.py --config" in command), 9)
    elif fault == "launcher":
        os.kill(max(pid for pid, command in processes.items() if "deepspeed.launcher.launch" in command), 9)
    elif fault == "mpiexec":  # MPI's own launcher, on the launching host
        os.kill(next(pid for pid, c in box.processes("node0").items() if MPIEXEC.search(c.partition(" -")[0])), 9)
    elif fault == "partition":
        box.partition(["node0"], [VICTIM])
    else:
        getattr(box, fault)(VICTIM)


def mend_it(fault: str, cluster: Any) -> None:
    {"crash": cluster.box.boot, "unplug": cluster.box.plug, "partition": lambda _: cluster.box.heal()}.get(fault, str)(
        VICTIM
    )


def survive(cluster: Any, fault: str, at_step: int, out: str, straight: dict[int, list[float]]) -> Survived:
    """Train on two hosts, break something once `at_step` is reached, mend it later, and wait for the end."""
    run = cluster.folder / out
    launcher = "mpich" if fault == "mpiexec" else "pdsh"
    job = cluster.train(
        "node0", "--hostfile", cluster.hosts(2), "--launcher", launcher, "--keep-going", 3, "--look-again", 3,
        *SETTINGS, f"run.steps={max(straight)}", f"run.out={run}",
    )  # fmt: skip
    job.wait_for(lambda: (run / "metrics.jsonl").exists() and max(cluster.losses(run), default=0) >= at_step)
    old = {pid for node in ("node0", VICTIM) for pid, c in cluster.box.processes(node).items() if "train.py" in c}
    break_it(fault, cluster)
    began = time.monotonic()
    job.wait_for(lambda: "the job has ended: " in job.output)
    detected = time.monotonic() - began
    while any(Path(f"/proc/{pid}").exists() for pid in old) and time.monotonic() - began < PATIENCE_SECONDS:
        time.sleep(0.1)
    clean = time.monotonic() - began
    if fault == "partition":
        time.sleep(max(0.0, PARTITION_SECONDS - clean))
    elif fault in ("crash", "unplug"):
        job.wait_for(lambda: "restart 1 of" in job.output)
    mend_it(fault, cluster)
    code = job.wait()
    lines = job.output.splitlines()
    found = cluster.losses(run)
    differences = [
        abs(a - b) for step in straight for a, b in zip(found.get(step, [1e9]), straight[step], strict=False)
    ]
    return Survived(
        fault,
        at_step,
        round(detected, 1),
        next(line.partition("ended: ")[2] for line in lines if line.startswith("the job has ended: ")),
        round(clean, 1),
        [line for line in lines if line.startswith("restart ") or "answers again" in line],
        code,
        max(differences),
    )


def straight_run(cluster: Any, steps: int = STEPS) -> dict[int, list[float]]:
    """The losses of the same run on one host, undisturbed."""
    job = cluster.train("node2", *SETTINGS, f"run.steps={steps}", "--num_accelerators", 1, "run.out=straight")
    if job.wait():
        raise SystemExit(f"error: the straight run failed:\n{job.output}")
    return cluster.losses(cluster.folder / "straight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="how many runs to break")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments")
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, in turn")
    parser.add_argument("--json", type=Path, help="write what happened to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the box is taken down
    sys.path.insert(0, str(HERE))
    from cluster_kit import Cluster, box_module, make_corpus

    folder = Path(tempfile.mkdtemp(prefix="survive-"))
    box = box_module.Box(f"survive{os.getpid()}")
    faults, moments, results = arguments.faults.split(","), random.Random(arguments.seed), []
    try:
        cluster = Cluster(box, folder, make_corpus(folder))
        box.up(3)
        straight = straight_run(cluster)
        for number in range(arguments.times):
            fault, at_step = faults[number % len(faults)], moments.randint(1, STEPS * 2 // 3)
            results.append(survive(cluster, fault, at_step, f"broken{number}", straight))
            print(json.dumps(asdict(results[-1])), flush=True)
    finally:
        box.down()
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    bad = [r for r in results if r.code or r.largest_difference > 1e-5 or r.detected_seconds > PATIENCE_SECONDS]
    sys.exit(f"{len(bad)} of {len(results)} runs did not survive" if bad else None)


if __name__ == "__main__":
    main()
