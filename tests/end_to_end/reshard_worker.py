"""Trains, and continues with other ranks, another ZeRO stage or precision; the ranks are forked from one process.

Usage: reshard_worker.py --config CONFIG --out DIR --port PORT. Runs of `STRAIGHT` go to DIR/RANKSx_STAGE_PRECISION, those of
`CONTINUED`, which start from a checkpoint in the middle of one of these, to DIR/CASE.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pipeline.train
from pipeline.checkpoints import checkpoint
from pipeline.settings.deepspeed_json import load_deepspeed_json
from pipeline.settings.schema import load_config
from tests.end_to_end.forked import REPOSITORY, allow_fp16_on_the_cpu, fork, parse_arguments

SHIPPED = REPOSITORY / "ds_configs"
STEPS, SAVED = 6, 3
PARTS = 2  # ranks × micro-steps


@dataclass(frozen=True)
class Cut:
    """How a run is spread."""

    ranks: int
    stage: int
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.ranks}x_zero{self.stage}_{self.precision}"


SPREAD = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (3, "bf16"), (2, "fp16"), (3, "fp16")]
STRAIGHT = [Cut(ranks, stage, precision) for ranks in (1, 2) for stage, precision in SPREAD]
CONTINUED = {
    f"{was}_as_{now}": (was, now)
    for was, now in [
        *((cut, Cut(3 - cut.ranks, cut.stage, cut.precision)) for cut in STRAIGHT),
        *(
            (Cut(ranks, was), Cut(now_ranks, now))
            for ranks, now_ranks in ((1, 1), (2, 1), (1, 2))
            for was, now in ((2, 1), (1, 2))
        ),
        (Cut(2, 2, "fp16"), Cut(2, 2, "bf16")),
        (Cut(1, 3), Cut(2, 3, "fp16")),
    ]
}


def deepspeed_json(out: Path, cut: Cut) -> Path:
    return out / f"zero{cut.stage}_{cut.precision}.json"


def write_deepspeed_jsons(out: Path) -> None:
    for cut in {now for _, now in CONTINUED.values()}:
        settings: dict[str, object] = {"zero_optimization": {"stage": cut.stage}}
        if cut.precision != "fp32":
            settings[cut.precision] = {"enabled": True}
            shipped = load_deepspeed_json(SHIPPED / f"{deepspeed_json(out, cut).name}")
            settings |= {name: shipped[name] for name in ("data_types", "communication_data_type") if name in shipped}
        if cut.precision == "fp16":
            settings["fp16"] = {"enabled": True, "initial_scale_power": 7, "loss_scale_window": 2}
        deepspeed_json(out, cut).write_text(json.dumps(settings), encoding="utf-8")


def overrides_of(out: Path, name: str, cut: Cut, steps: int, saved: int) -> list[str]:
    """What a run by that name is told beside its config: how it is spread, how many steps, and every how many it saves."""
    return [
        f"deepspeed={deepspeed_json(out, cut)}",
        f"run.out={out / name}",
        f"run.steps={steps}",
        f"run.save_every={saved}",
        f"batch.micro_steps={PARTS // cut.ranks}",
    ]


def run(config: Path, out: Path, name: str, cut: Cut, resume: Path | None) -> None:
    overrides = overrides_of(out, name, cut, STEPS, SAVED)
    pipeline.train.train(load_config(config, overrides), None if resume is None else str(resume))


def train_cases(rank: int, ranks: int, work: str, config: Path, out: Path) -> None:
    """One rank's life: the straight or the continued runs with so many ranks, one after another."""
    if work == "straight":
        for cut in STRAIGHT:
            if cut.ranks == ranks:
                run(config, out, str(cut), cut, None)
    else:
        for name, (was, now) in CONTINUED.items():
            if now.ranks == ranks:
                run(config, out, name, now, checkpoint.folder_of(out / str(was)) / checkpoint.tag_of(SAVED))


def main() -> None:
    arguments = parse_arguments()
    allow_fp16_on_the_cpu()
    write_deepspeed_jsons(arguments.out)
    for work in ("straight", "continued"):
        for ranks in (1, 2):
            fork(train_cases, ranks, arguments.port, ranks, work, arguments.config, arguments.out)


if __name__ == "__main__":
    main()
