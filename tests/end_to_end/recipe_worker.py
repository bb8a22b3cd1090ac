"""Trains every recipe of pipeline/configs/ that names no pretrained model, made small but for its objectives and optimizer.

Usage: recipe_worker.py --config CONFIG --out DIR --port PORT. One process, one rank, in fp16 as the recipes have it; the data
is CONFIG's. Every recipe leaves the run DIR/RECIPE.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pipeline.train
from pipeline.config import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = ("mlm", "mlm_tlm", "xlm_align_base", "xlm_align_large")
STEPS = 2
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
    from fp16_worker import allow_fp16_on_the_cpu  # beside this file, which is run as a script

    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(arguments.port)
    allow_fp16_on_the_cpu()
    data = load_config(arguments.config).data.path
    os.chdir(REPOSITORY)  # the recipes name ds_configs/ from there
    for recipe in RECIPES:
        overrides = [*SMALL, f"data.path={data}", f"run.out={arguments.out / recipe}"]
        path = REPOSITORY / "pipeline" / "configs" / f"{recipe}.yaml"
        pipeline.train.train(load_config(path, overrides), resume=None)
    pipeline.train.dist.destroy_process_group()


if __name__ == "__main__":
    main()
