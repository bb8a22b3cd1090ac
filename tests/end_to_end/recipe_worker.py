"""Trains every recipe of pipeline/configs/ that names no pretrained model, made small but for its objectives and optimizer.

Usage: recipe_worker.py --config CONFIG --out DIR --port PORT. One process, one rank, in fp16 as the recipes have it; the data
is CONFIG's. Every recipe leaves the run DIR/RECIPE; all objectives at once leave DIR/everything_zeroSTAGE, in fp32.
"""

from __future__ import annotations

import os

import torch.distributed

import pipeline.train
from pipeline.settings.schema import load_config
from tests.end_to_end.forked import REPOSITORY, allow_fp16_on_the_cpu, join, parse_arguments

CONTRAST = ("batch.contrast=32", "objectives.contrast.queue=64")
RECIPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("mlm", "mlm_tlm", "xlm_align_base", "xlm_align_large", "xlm_e_base"), ()),
    **dict.fromkeys(("infoxlm_base", "infoxlm_large"), CONTRAST),
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
    "objectives.token_contrast={layer: 7}",
    "objectives.mrtd={}",
    "objectives.trtd={}",
)
STAGES = (0, 1, 2, 3)
SMALL = (
    "data.block_tokens=64",
    "data.side_tokens=30",
    "model.hidden=32",
    "model.heads=2",
    "model.feed_forward=64",
    "batch.mono=32",
    "batch.pairs=32",
    "optimizer.torch_adam=true",
    "run.log_every=1",
    f"run.steps={STEPS}",
)


def main() -> None:
    arguments = parse_arguments()
    join(0, 1, arguments.port)
    allow_fp16_on_the_cpu()
    data = load_config(arguments.config).data.path
    os.chdir(REPOSITORY)  # the recipes name ds_configs/ from there
    for recipe, own in RECIPES.items():
        overrides = [*SMALL, *own, f"data.path={data}", f"run.out={arguments.out / recipe}"]
        path = REPOSITORY / "pipeline" / "configs" / f"{recipe}.yaml"
        pipeline.train.train(load_config(path, overrides), resume=None)
    overrides = [*SMALL, f"data.path={data}", f"run.out={arguments.out / 'heads_first'}", *HEADS_FIRST]
    pipeline.train.train(
        load_config(REPOSITORY / "pipeline" / "configs" / "xlm_align_base.yaml", overrides), resume=None
    )
    for stage in STAGES:
        place = (f"data.path={data}", f"run.out={arguments.out / f'everything_zero{stage}'}")
        overrides = [*SMALL, *EVERYTHING, *place, f"deepspeed=ds_configs/zero{stage}_fp32.json"]
        pipeline.train.train(
            load_config(REPOSITORY / "pipeline" / "configs" / "xlm_align_base.yaml", overrides), resume=None
        )
    overrides = [*SMALL, f"data.path={data}", f"run.out={arguments.out / 'relative'}", "model.positions=gated_relative"]
    pipeline.train.train(load_config(REPOSITORY / "pipeline" / "configs" / "xlm_e_base.yaml", overrides), resume=None)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
