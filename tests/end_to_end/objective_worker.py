"""Trains an objective with state of its own, is killed, goes on, and goes on with other ranks and another ZeRO stage.

Usage: objective_worker.py --config CONFIG --out DIR --port PORT. Ranks are forked. Runs go to DIR/NAME; what each rank held
right after loading to DIR/NAME.loaded_RANK.pt. `REFUSED` leave DIR/OVERRIDE.error, the error that ended them.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

import pipeline.train
from pipeline.checkpoints import checkpoint
from pipeline.settings.schema import load_config
from pipeline.training import ranks, replicated
from tests.end_to_end.forked import fork, parse_arguments
from tests.end_to_end.reshard_worker import Cut, deepspeed_json, overrides_of
from tests.pipeline.objectives.objective_kit import install

STEPS, SAVED, DIES_AT = 4, 2, 3
STAGES = (1, 2, 3)
STRAIGHT = {f"straight_zero{stage}": Cut(2, stage) for stage in STAGES}
ALONE = {f"alone_zero{stage}": Cut(2, stage) for stage in (0, 2, 3)}
"""The objective alone, which leaves the last layer without a loss."""
ONE_RANK = {f"straight_zero{stage}_as_1": (f"straight_zero{stage}", Cut(1, stage)) for stage in STAGES}
"""By name the run whose checkpoint in the middle they start from, and their own cut."""
TWO_RANKS = {
    **{f"straight_zero{stage}_again": (f"straight_zero{stage}", Cut(2, stage)) for stage in (1, 3)},
    "straight_zero1_as_2": ("straight_zero1", Cut(2, 2)),
    "straight_zero2_as_1": ("straight_zero2", Cut(2, 1)),
    # Back to two ranks, from the checkpoint that one rank wrote at the end.
    **{f"straight_zero{stage}_as_1_as_2": (f"straight_zero{stage}_as_1", Cut(2, stage)) for stage in STAGES},
}
LOW, LOW_STEPS = Cut(1, 2, "bf16"), 100
WRITING = (
    "model.decoder={layers: 1}",
    "objectives.sc={}",
    "objectives.tsc={}",
    "objectives.dae={}",
    "objectives.mt={}",
)
"""Their decoder is trained as a head, and shares the encoder's tables, which have words that only it uses."""
BESIDE = ("objectives.mrtd={generator_layers: 1}", "objectives.trtd={generator_layers: 1}", *WRITING)
"""The generator is trained as the encoder is, and shares its tables."""
OTHERS = ("objectives.mlm=null", "objectives.tlm=null", "objectives.dwa=null")
REFUSED = ("objectives.probe.momentum=0.5", "objectives.probe=null")


def run(config: Path, out: Path, name: str, cut: Cut, *more: str, resume: str | None = None) -> None:
    overrides = [*overrides_of(out, name, cut, STEPS, SAVED), *more]
    pipeline.train.train(load_config(config, overrides), resume)


def watch_loading(out: Path) -> list[str]:
    """From now on keep what each rank holds after it has loaded; the first name of the list is the run's."""
    names, load = [""], replicated.load

    def loading(twins: Any, *given: Any) -> None:
        load(twins, *given)
        torch.save(replicated.state(twins), out / f"{names[0]}.loaded_{ranks.rank()}.pt")

    replicated.load = loading
    return names


def straight(rank: int, config: Path, out: Path) -> None:
    for name, cut in STRAIGHT.items():
        run(config, out, name, cut, *BESIDE)
    for name, cut in ALONE.items():
        run(config, out, name, cut, *OTHERS)


def killed(rank: int, config: Path, out: Path, dies_at: int) -> None:
    """A run that kills itself, or with `dies_at` = 0 goes on."""
    watch_loading(out)[0] = "killed"
    run(config, out, "killed", Cut(2, 2), f"objectives.probe.dies_at={dies_at}", *BESIDE, resume="auto")


def continued(rank: int, config: Path, out: Path, cases: dict[str, tuple[str, Cut]]) -> None:
    names = watch_loading(out)
    for name, (was, cut) in cases.items():
        names[0] = name
        found = checkpoint.folder_of(out / was) / checkpoint.tag_of(STEPS if was.endswith("_as_1") else SAVED)
        more = f"run.steps={STEPS + SAVED}" if was.endswith("_as_1") else f"run.steps={STEPS}"
        run(config, out, name, cut, more, *BESIDE, resume=str(found))


def low_precision(rank: int, config: Path, out: Path) -> None:
    few = ("batch.mono=2", "batch.pairs=2", "run.log_every=100", "run.save_every=1000", *OTHERS)
    run(config, out, "low", LOW, f"run.steps={LOW_STEPS}", *few)
    found = str(checkpoint.folder_of(out / "straight_zero2_as_1") / checkpoint.tag_of(STEPS))
    for override in REFUSED:
        try:
            run(config, out, f"refused_{override}", Cut(1, 1), "run.steps=9", *BESIDE, override, resume=found)
        except ValueError as error:
            (out / f"{override}.error").write_text(str(error), encoding="utf-8")


def main() -> None:
    install()
    arguments = parse_arguments()
    config, out, port = arguments.config, arguments.out, arguments.port
    for cut in (*STRAIGHT.values(), *ALONE.values(), LOW):
        settings: dict[str, object] = {"zero_optimization": {"stage": cut.stage}}
        if cut.stage == 3:  # cut weights of so small a model too
            settings = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
        if cut.precision != "fp32":
            settings[cut.precision] = {"enabled": True}
        deepspeed_json(out, cut).write_text(json.dumps(settings), encoding="utf-8")
    fork(straight, 2, port, config, out)
    with contextlib.suppress(torch.multiprocessing.ProcessExitedException):
        fork(killed, 2, port, config, out, DIES_AT)
    fork(killed, 2, port, config, out, 0)
    fork(continued, 1, port, config, out, ONE_RANK)
    fork(continued, 2, port, config, out, TWO_RANKS)
    fork(low_precision, 1, port, config, out)


if __name__ == "__main__":
    main()
