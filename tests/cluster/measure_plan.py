#!/usr/bin/env python3
"""Holds `python -m pipeline plan` against runs in the box on throttled links; run by hand, as root, on an idle machine:

    python tests/cluster/measure_plan.py [--rates 50mbit,200mbit] [--stages 2,3] [--hosts 2,3] [--json FILE]

The ranks' speed is taken from a run on one host; each run's step and what a host sent are then compared with the plan.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.estimate.scale import Cluster as Ranks
from pipeline.estimate.scale import plan, work_of
from pipeline.settings.schema import load_config

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SETTINGS = (
    "model.layers=3",
    "model.hidden=192",
    "model.heads=3",
    "model.feed_forward=768",
    "batch.mono=12",
    "batch.pairs=24",
)
STEPS, SKIPPED = 8, 3
MBIT = 1e6 / 8


def sent_bytes(cluster: Any, node: str) -> int:
    """What a host has sent over eth0 since it was powered on."""
    init = (cluster.box.state / node / "pid").read_text()
    line = next(line for line in Path(f"/proc/{init}/net/dev").read_text().splitlines() if "eth0:" in line)
    return int(line.partition(":")[2].split()[8])


def measure(cluster: Any, hosts: int, words: list[str], out: str) -> tuple[float, float]:
    """Median seconds of a step, and bytes that node0 sent in one, after the first steps."""
    run, marks = cluster.folder / out, {}
    started = []
    for rank in range(hosts):
        world = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": hosts, "MASTER_ADDR": "10.99.7.10", "MASTER_PORT": 29500}
        command = [
            sys.executable,
            REPOSITORY / "pipeline" / "train.py",
            "--config",
            cluster.config,
            *words,
            f"run.out={run}",
        ]
        started.append(cluster.start(f"node{rank}", *command, **{name: str(value) for name, value in world.items()}))

    def watched() -> bool:
        done = max(cluster.losses(run), default=0) if (run / "metrics.jsonl").exists() else 0
        marks.setdefault(done, sent_bytes(cluster, "node0"))
        return done >= STEPS

    started[0].wait_for(watched)
    if any(each.wait() for each in started):
        raise SystemExit(f"error: a run failed:\n{started[0].output}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [line["seconds_per_step"] for line in lines if line["kind"] == "train"][SKIPPED:]
    last, first = max(marks), min(step for step in marks if step >= SKIPPED)
    return statistics.median(times), (marks[last] - marks[first]) / max(last - first, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rates", default="50mbit,200mbit", help="link speeds of all hosts, as tc writes them, in mbit"
    )
    parser.add_argument("--stages", default="2,3", help="ZeRO stages")
    parser.add_argument("--hosts", default="2,3", help="numbers of hosts")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the box is taken down
    sys.path.insert(0, str(HERE))
    from cluster_kit import Cluster, box_module, make_corpus

    folder = Path(tempfile.mkdtemp(prefix="plan-"))
    box, results = box_module.Box(f"plan{os.getpid()}"), []
    try:
        cluster = Cluster(box, folder, make_corpus(folder))
        box.up(3)
        for stage in map(int, arguments.stages.split(",")):
            json_of_stage = f"deepspeed={REPOSITORY}/ds_configs/zero{stage}_fp32.json"
            words = [*SETTINGS, f"run.steps={STEPS}", f"run.save_every={STEPS}", json_of_stage]
            config = load_config(cluster.config, [*words, f"data.path={folder / 'data'}"])
            for hosts, rate in product(map(int, arguments.hosts.split(",")), arguments.rates.split(",")):
                alone, _ = measure(
                    cluster, 1, words, f"alone-{stage}-{hosts}-{rate}"
                )  # just before: other work comes and goes
                for node in box.nodes:
                    box.link(node, rate=rate)
                work = work_of(config, hosts, pair_tokens=64)
                speed = work.flops / alone * min(1.0, len(os.sched_getaffinity(0)) / hosts)
                link = float(rate.removesuffix("mbit")) * MBIT
                ranks = Ranks(hosts, 1, speed, link, math.inf, scatters=False)
                planned = plan(work, ranks)
                seconds, sent = measure(cluster, hosts, words, f"{stage}-{hosts}-{rate}")
                results.append(
                    {
                        "stage": stage, "hosts": hosts, "rate": rate, "alone_seconds": alone,
                        "seconds": seconds, "planned_seconds": planned.step_seconds,
                        "sent": sent, "planned_sent": sum(planned.sent.values()),
                    }
                )  # fmt: skip
                print(json.dumps(results[-1]), flush=True)
                for node in box.nodes:
                    box.link(node)
    finally:
        box.down()
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
