"""Trains in fp16 on the CPU, which DeepSpeed refuses unless told otherwise: the scale's machinery, for real.

Usage: fp16_worker.py --config CONFIG --out DIR --port PORT. One process, one rank; every case writes DIR/CASE/metrics.jsonl
and DIR/CASE.error where it ended with a user's error. Infinities are put into a gradient at chosen steps.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

import pipeline.train
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.schema import load_config
from tests.end_to_end.forked import InfiniteGradient, allow_fp16_on_the_cpu, join, parse_arguments

WINDOW, INITIAL_POWER = 4, 7
CASES: dict[str, tuple[int, set[int], float]] = {  # steps, steps whose gradient is infinite, smallest scale
    "falls": (12, {2, 3, 4}, 1),
    "once": (6, {3}, 1),
    "floor": (12, set(range(2, 12)), 64),
}
STAGES = (1, 2, 3)


class Infinities:
    """A model's forward that makes the gradient of chosen steps, counted from 0, infinite."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self.start(set())

    def start(self, steps: set[int]) -> None:
        self._steps, self._step = steps, 0

    def __call__(self, model: PretrainingModel, work: str, *arguments: Any) -> Any:
        result = self._forward(model, work, *arguments)
        if work == "losses":
            if self._step in self._steps:
                for term in result.values():
                    term["loss"] = InfiniteGradient.apply(term["loss"])
            self._step += 1
        return result


def run(arguments: argparse.Namespace, name: str, stage: int, steps: int, floor: float, resume: str | None) -> None:
    settings = {
        "zero_optimization": {"stage": stage},
        "fp16": {
            "enabled": True,
            "initial_scale_power": INITIAL_POWER,
            "loss_scale_window": WINDOW,
            "min_loss_scale": floor,
            "hysteresis": 1,
        },
    }
    path = arguments.out / f"{name}.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    overrides = (
        f"deepspeed={path}",
        f"run.out={arguments.out / name}",
        f"run.steps={steps}",
        "run.save_every=5",
    )
    try:
        pipeline.train.train(load_config(arguments.config, overrides), resume)
    except ValueError as error:
        (arguments.out / f"{name}.error").write_text(str(error), encoding="utf-8")


def main() -> None:
    arguments = parse_arguments()
    join(0, 1, arguments.port)
    allow_fp16_on_the_cpu()
    infinities = Infinities(PretrainingModel.forward)
    PretrainingModel.forward = lambda *arguments: infinities(*arguments)
    for stage in STAGES:
        for case, (steps, infinite, floor) in CASES.items():
            infinities.start(infinite)
            run(arguments, f"{case}_zero{stage}", stage, steps, floor, None)
        # The same steps again, stopped at the fifth and continued.
        infinities.start(CASES["falls"][1])
        run(arguments, f"resumed_zero{stage}", stage, 5, 1, None)
        run(arguments, f"resumed_zero{stage}", stage, CASES["falls"][0], 1, "auto")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
