"""Trains with sentence contrast: cut in several ways, gone on with other ranks and precision, and in half precision.

Usage: contrast_worker.py --config CONFIG --out DIR --port PORT. Ranks are forked. Runs go to DIR/NAME; what each rank held
right after loading to DIR/NAME.loaded_RANK.pt.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

import pipeline.train
from pipeline.checkpoints import checkpoint
from pipeline.settings.schema import load_config
from pipeline.training import ranks
from tests.end_to_end.forked import allow_fp16_on_the_cpu, fork, parse_arguments
from tests.end_to_end.objective_worker import watch_loading
from tests.end_to_end.reshard_worker import Cut, deepspeed_json

SLOW = "{layer: 1, queue: 32, in_batch: true, both_directions: true, mixing: released, momentum: 0.9}"
OWN = "{layer: 1, queue: 0, in_batch: true, mixing: none, masked: false, momentum: null, similarity: cosine, temperature: 0.1}"
ARMS = {"slow": SLOW, "own": OWN}
STAGES = {"slow": (0, 1, 2, 3), "own": (0, 3)}
"""By arm; ZeRO 1 and 2 know no more of what an objective does than 0."""
CUTS = [(1, 1), (2, 1), (1, 4), (2, 2)]
"""Ranks and micro-steps."""
STEPS, SAVED = 4, 2
VALIDATED = [name for arm in ARMS for name in (f"{arm}_zero0_1x1", f"{arm}_zero3_2x2")]
CONTINUED = {
    "again": ((2, 1), Cut(2, 1)),
    "again_zero3": ((2, 3), Cut(2, 3)),
    "as_1": ((2, 3), Cut(1, 3)),
    "as_stage_2": ((2, 1), Cut(1, 2)),
    "as_bf16": ((2, 1), Cut(2, 1, "bf16")),
    "as_2": ((1, 2), Cut(2, 2)),
}
"""By name, ranks and stage of the run whose checkpoint in the middle is gone on from, and how."""
HALF = {"bf16": Cut(1, 2, "bf16"), "fp16": Cut(1, 2, "fp16")}
HALF_STEPS = 3


def name_of(arm: str, stage: int, ranks: int, micro_steps: int) -> str:
    return f"{arm}_zero{stage}_{ranks}x{micro_steps}"


def run(
    config: Path, out: Path, name: str, arm: str, cut: Cut, micro_steps: int, *more: str, resume: Path | None
) -> None:
    overrides = [
        f"deepspeed={deepspeed_json(out, cut)}",
        f"run.out={out / name}",
        f"run.steps={STEPS}",
        f"run.save_every={SAVED}",
        f"batch.micro_steps={micro_steps}",
        "batch.contrast=8",
        "objectives.mlm=null",
        "objectives.dwa=null",
        f"objectives.contrast={ARMS[arm]}",
        *more,
    ]
    pipeline.train.train(load_config(config, overrides), None if resume is None else str(resume))


def cut_anew(rank: int, config: Path, out: Path) -> None:
    for arm in ARMS:
        for stage in STAGES[arm]:
            for world_size, micro_steps in CUTS:
                if world_size == ranks.world_size():
                    name = name_of(arm, stage, world_size, micro_steps)
                    held_out = (f"validation.data={load_config(config).data.path}", f"validation.every={STEPS}")
                    validation = held_out if name in VALIDATED else ()
                    run(config, out, name, arm, Cut(world_size, stage), micro_steps, *validation, resume=None)


def continued(rank: int, config: Path, out: Path) -> None:
    names = watch_loading(out)
    for name, ((was_ranks, was_stage), cut) in CONTINUED.items():
        if cut.ranks == ranks.world_size():
            names[0] = name
            was = out / name_of("slow", was_stage, was_ranks, 1)
            found = checkpoint.folder_of(was) / checkpoint.tag_of(SAVED)
            run(config, out, name, "slow", cut, 1, resume=found)


def half(rank: int, config: Path, out: Path) -> None:
    for name, cut in HALF.items():
        # With so small a step the slow weights would stand still in half precision.
        momentum = "objectives.contrast.momentum=0.9999"
        run(
            config,
            out,
            name,
            "slow",
            cut,
            1,
            momentum,
            f"run.steps={HALF_STEPS}",
            "run.save_every=1",
            "run.keep=9",
            resume=None,
        )


def main() -> None:
    arguments = parse_arguments()
    config, out, port = arguments.config, arguments.out, arguments.port
    allow_fp16_on_the_cpu()
    for cut in (*(Cut(1, stage) for stage in STAGES["slow"]), *HALF.values(), *(cut for _, cut in CONTINUED.values())):
        settings: dict[str, object] = {"zero_optimization": {"stage": cut.stage}}
        if cut.stage == 3:  # cut weights of so small a model too
            settings = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
        if cut.precision == "fp16":  # a scale at which no step can be applied
            settings["fp16"] = {"enabled": True, "initial_scale_power": 32}
        elif cut.precision == "bf16":
            settings["bf16"] = {"enabled": True}
        deepspeed_json(out, cut).write_text(json.dumps(settings), encoding="utf-8")
    for life, world_sizes in ((cut_anew, (1, 2)), (continued, (1, 2)), (half, (1,))):
        for world_size in world_sizes:
            fork(life, world_size, port, config, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
