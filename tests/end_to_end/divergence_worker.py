"""Trains steps whose loss, gradient or optimizer state is not finite, on two ranks forked from one process.

Usage: divergence_worker.py --config CONFIG --out DIR --port PORT. Every case writes DIR/CASE, and DIR/CASE.error where it ended
with a user's error. What is not finite is so on rank 1 alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

import pipeline.train
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.schema import load_config
from pipeline.training import saves
from pipeline.training.divergence import check_weights
from tests.end_to_end.forked import InfiniteGradient, allow_fp16_on_the_cpu, fork, parse_arguments

RANKS, STEPS, SAVE_EVERY, MOST = 2, 8, 2, 3
CUTS = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16"), (1, "bf16"), (3, "bf16")]
FP16 = (2, "fp16")
# What is not finite, and in which steps, counted from 1.
FAULTS: dict[str, tuple[str, range]] = {
    "loss": ("loss", range(3, 99)),
    "gradient": ("gradient", range(3, 99)),
    "twice": ("loss", range(3, 5)),
    "state": ("state", range(4, 5)),
}
CASES = {f"{fault}_zero{stage}_{precision}": (fault, stage, precision) for fault in FAULTS for stage, precision in CUTS}
CASES |= {f"{fault}_zero2_fp16": (fault, *FP16) for fault in ("loss", "gradient")}


class Fault:
    """A model's forward with something that is not finite in chosen steps."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self.start("", range(0))

    def start(self, kind: str, steps: range) -> None:
        self._kind, self._steps, self._step = kind, steps, 0

    def __call__(self, model: PretrainingModel, work: str, *arguments: Any) -> Any:
        result = self._forward(model, work, *arguments)
        if work == "losses":
            self._step += 1
            # One loss alone, but the gradients of all: those of MLM and TLM are made with one factor.
            spoiled = {"loss": ["tlm"], "gradient": list(result)}.get(self._kind, [])
            for name in spoiled if self._step in self._steps else []:
                result[name]["loss"] = self._spoiled(result[name]["loss"])
        return result

    def before_saving(self, engine: Any) -> None:
        if self._kind == "state" and self._step in self._steps:
            next(iter(engine.basic_optimizer.state.values()))["exp_avg"][-1] = float("nan")

    def _spoiled(self, loss: Tensor) -> Tensor:
        # An infinite term that the gradient does not see, or the other way round.
        return loss + float("inf") if self._kind == "loss" else InfiniteGradient.apply(loss)


def train_cases(rank: int, config: Path, out: Path) -> None:
    fault = Fault(PretrainingModel.forward)
    PretrainingModel.forward = lambda *arguments: fault(*arguments)
    saves.check_weights = lambda engine: (fault.before_saving(engine), check_weights(engine))
    for name, (kind, stage, precision) in CASES.items():
        overrides = (
            f"deepspeed={out / f'zero{stage}_{precision}.json'}",
            f"run.out={out / name}",
            f"run.steps={STEPS}",
            f"run.save_every={SAVE_EVERY}",
            f"run.non_finite_steps={MOST}",
        )
        if rank == 1:
            fault.start(*FAULTS[kind])
        try:
            pipeline.train.train(load_config(config, overrides), None)
        except ValueError as error:
            (out / f"{name}.error_{rank}").write_text(str(error), encoding="utf-8")


def main() -> None:
    arguments = parse_arguments()
    allow_fp16_on_the_cpu()
    for stage, precision in [*CUTS, FP16]:
        settings: dict[str, object] = {"zero_optimization": {"stage": stage}}
        if precision != "fp32" and stage > 1:
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
        if precision != "fp32":
            settings[precision] = {"enabled": True, **({"initial_scale_power": 7} if precision == "fp16" else {})}
        (arguments.out / f"zero{stage}_{precision}.json").write_text(json.dumps(settings), encoding="utf-8")
    fork(train_cases, RANKS, arguments.port, arguments.config, arguments.out)


if __name__ == "__main__":
    main()
