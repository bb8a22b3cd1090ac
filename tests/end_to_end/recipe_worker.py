"""Trains every recipe of pipeline/configs/ that names no pretrained model, made small but for its objectives and optimizer.

Usage: recipe_worker.py --config CONFIG --out DIR --port PORT. One process, one rank, in fp16 as the recipes have it; the data
is CONFIG's. Every recipe leaves the run DIR/RECIPE; all objectives at once leave DIR/everything_zeroSTAGE, in
fp32, and XNLG's second stage, which begins as the run of mlm, DIR/frozen_zeroSTAGE.
"""

from __future__ import annotations

import os

import torch.distributed

import pipeline.train
from pipeline.settings.schema import load_config
from pipeline.settings.text_to_text import WRITING
from tests.end_to_end.forked import REPOSITORY, allow_fp16_on_the_cpu, join, parse_arguments

CONTRAST = ("batch.contrast=32", "objectives.contrast.queue=64")
RECIPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("mlm", "mlm_tlm", "xlm_align_base", "xlm_align_large", "xlm_e_base"), ()),
    **dict.fromkeys(("infoxlm_base", "infoxlm_large"), CONTRAST),
    "mt6_small": ("model.decoder.layers=2",),
    "deltalm_base": ("model.init=null",),
    "xlm_t_base": ("model.init=null",),
}
"""By name what else makes it small."""
STEPS = 2
HEADS_FIRST = (
    "optimizer.heads_first_steps=2",
    "optimizer.warmup_steps=1",
    "run.steps=3",
    "run.save_every=1",
    "run.keep=3",
)
EVERYTHING = (
    *CONTRAST,
    "objectives.contrast.layer=8",
    "objectives.token_contrast={layer: 7, labels: layers, label_layers: [6, 7]}",
    "objectives.dwa.label_encoding=separate",
    "objectives.mrtd={}",
    "objectives.trtd={}",
    "model.decoder={layers: 2, sentinels: 40}",
    *(f"objectives.{name}={{}}" for name in WRITING),
)

STAGES = (0, 1, 2, 3)
RESHARDED = {1: 2, 2: 1}
"""Runs of the second stage of XNLG that go on at another stage of ZeRO, by that which they began with."""
SMALL = (
    "data.block_tokens=64",
    "data.side_tokens=30",
    "model.hidden=32",
    "model.heads=2",
    "model.feed_forward=64",
    "batch.mono=32",
    "batch.pairs=32",
    "run.log_every=1",
    f"run.steps={STEPS}",
)


def stage_file(stage: int) -> str:
    return f"deepspeed=ds_configs/zero{stage}_fp32.json"


def main() -> None:
    arguments = parse_arguments()
    join(0, 1, arguments.port)
    allow_fp16_on_the_cpu()
    data = load_config(arguments.config).data.path
    os.chdir(REPOSITORY)  # the recipes name ds_configs/ from there

    def train(recipe: str, name: str, *own: str, resume: str | None = None) -> None:
        overrides = [*SMALL, f"data.path={data}", f"run.out={arguments.out / name}", *own]
        path = REPOSITORY / "pipeline" / "configs" / f"{recipe}.yaml"
        pipeline.train.train(load_config(path, overrides), resume)

    for recipe, own in RECIPES.items():
        train(recipe, recipe, *own)
    first_stage = f"model.init={arguments.out / 'mlm'}"
    for stage in STAGES:
        train("xnlg_stage2", f"frozen_zero{stage}", first_stage, stage_file(stage))
    for was, now in RESHARDED.items():
        more = (first_stage, stage_file(now), f"run.steps={STEPS + 1}")
        train("xnlg_stage2", f"frozen_zero{was}", *more, resume="auto")
    train("xlm_align_base", "heads_first", *HEADS_FIRST)
    for stage in STAGES:
        train("xlm_align_base", f"everything_zero{stage}", *EVERYTHING, stage_file(stage))
    train("xlm_e_base", "relative", "model.positions=gated_relative")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
