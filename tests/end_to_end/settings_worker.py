"""Continues runs with another learning rate, betas, ε, weight decay and clipping, and looks at the first update that follows.

Usage: settings_worker.py --config CONFIG --out DIR --port PORT. Ranks are forked. Each of `CASES` leaves DIR/CASE.json: what
the optimizer was set to, and its weights and moments before and after the first step of the continued run. `REFUSED` leave
DIR/OVERRIDE.error, the error that ended them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import pipeline.train
from pipeline.checkpoints import checkpoint
from pipeline.settings.schema import load_config
from tests.end_to_end.forked import fork, parse_arguments
from tests.end_to_end.reshard_worker import Cut, deepspeed_json, overrides_of

STEPS, SAVED = 3, 2
WARMUP = 10  # longer than the runs, so that the rate of a step is easily said
SHOWN = 64  # values of each tensor that are kept, spread over it
BEFORE = {"lr": 1e-3, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01, "clip": 0.5}
AFTER = {"lr": 5e-4, "betas": [0.8, 0.9], "eps": 1e-3, "weight_decay": 0.3, "clip": 0.125}
STAGES = (0, 1, 2, 3)
CASES = {f"zero{stage}_from_{ranks}_ranks": (ranks, stage) for ranks in (1, 2) for stage in STAGES}
"""By name the ranks that wrote the checkpoint, and the stage; one rank continues."""
REFUSED = ("objectives.dwa=null", "optimizer.adam=deepspeed", "run.seed=2", "run.steps=1", "model.layers=3")
State = list[dict[str, Any]]


class Watch:
    """An engine whose first optimizer step is looked at: what the optimizer holds before and after it."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._step, self._done = engine, engine.step, engine.global_steps
        self.before: State = []
        self.after: State = []
        self.groups: list[dict[str, Any]] = []
        engine.step = self

    def __call__(self, *arguments: Any) -> None:
        engine = self._engine
        if not self.before:
            self.before, self._done = self._state(), engine.global_steps
            self.groups = [
                {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
                for group in engine.basic_optimizer.param_groups
            ]
        self._step(*arguments)
        if not self.after and engine.global_steps > self._done:
            self.after = self._state()

    def _state(self) -> State:
        return [
            {"weight": _some(parameter), "step": float(of["step"])}
            | {name: _some(of[name]) for name in ("exp_avg", "exp_avg_sq")}
            for parameter, of in self._engine.basic_optimizer.state.items()
        ]


def _some(tensor: torch.Tensor) -> list[float]:
    values = tensor.detach().flatten()
    return values[:: max(values.numel() // SHOWN, 1)].double().tolist()


def run(config: Path, out: Path, name: str, cut: Cut, settings: dict[str, Any], *more: str, resume: bool) -> None:
    overrides = [
        *overrides_of(out, name, cut, STEPS, SAVED),
        f"optimizer.warmup_steps={WARMUP}",
        *(f"optimizer.{key}={value}" for key, value in settings.items()),
        *more,
    ]
    found = checkpoint.folder_of(out / name.split("_as_")[-1]) / checkpoint.tag_of(SAVED) if resume else None
    pipeline.train.train(load_config(config, overrides), None if found is None else str(found))


def watch() -> list[Watch]:
    """Every engine that training makes from now on."""
    watched: list[Watch] = []
    initialize = pipeline.train.deepspeed.initialize

    def watching(**options: Any) -> Any:
        made = initialize(**options)
        watched.append(Watch(made[0]))
        return made

    pipeline.train.deepspeed.initialize = watching
    return watched


def straight(rank: int, ranks: int, config: Path, out: Path) -> None:
    for stage in STAGES:
        cut = Cut(ranks, stage)
        run(config, out, str(cut), cut, BEFORE, f"run.steps={SAVED}", resume=False)


def continued(rank: int, config: Path, out: Path) -> None:
    watched = watch()
    for case, (ranks, stage) in CASES.items():
        run(config, out, f"{case}_as_{Cut(ranks, stage)}", Cut(1, stage), AFTER, resume=True)
        seen = watched[-1]
        found = {"groups": seen.groups, "before": seen.before, "after": seen.after}
        found["clip"] = getattr(seen._engine.optimizer, "clip_grad", None)
        (out / f"{case}.json").write_text(json.dumps(found), encoding="utf-8")
    for override in REFUSED:
        try:
            run(config, out, f"{override}_as_{Cut(1, 2)}", Cut(1, 2), BEFORE, override, resume=True)
        except ValueError as error:
            (out / f"{override}.error").write_text(str(error), encoding="utf-8")


def main() -> None:
    arguments = parse_arguments()
    for stage in STAGES:
        path = deepspeed_json(arguments.out, Cut(1, stage))
        path.write_text(json.dumps({"zero_optimization": {"stage": stage}}), encoding="utf-8")
    for ranks in (1, 2):
        fork(straight, ranks, arguments.port, ranks, arguments.config, arguments.out)
    fork(continued, 1, arguments.port, arguments.config, arguments.out)


if __name__ == "__main__":
    main()
