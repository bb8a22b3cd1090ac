"""Trains with every file of ds_configs/ on the CPU, fp16 and offload included, and measures what a rank holds in memory.

Usage: zero_worker.py --config CONFIG --out DIR --port PORT. Ranks are forked. Rank 0 leaves DIR/FILE.json: bytes of all tensors
that it held, at most, in an optimizer step of two micro-steps, and what `memory_estimate` says of a model without activations
and vocabulary.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.multiprocessing
from torch import Tensor, nn

from pipeline.data.streams import BatchPlan
from pipeline.estimate.memory import StepWork, memory_per_rank
from pipeline.model.encoder import EncoderConfig
from pipeline.settings.schema import load_config
from pipeline.training import muon, ranks
from pipeline.training.build import deepspeed_settings
from tests.end_to_end.forked import REPOSITORY, allow_fp16_on_the_cpu, fork, parse_arguments

FILES = sorted((REPOSITORY / "ds_configs").glob("*.json"))
RANKS, MICRO_STEPS, WIDTH, LAYERS = 2, 2, 256, 8
# DeepSpeed's defaults are larger than the whole model here.
SMALL = {
    "reduce_bucket_size": 100_000,
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
}


def held_bytes() -> int:
    """Bytes of every tensor that this process holds, each storage once."""
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(sizes.values())


class Largest:
    """The most that was held at the moments when it was asked to look."""

    def __init__(self) -> None:
        self._before, self.bytes = held_bytes(), 0

    def look(self, *_: Any) -> None:
        self.bytes = max(self.bytes, held_bytes() - self._before)


def measure(path: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Train a stack of linear layers for two optimizer steps under these settings."""
    largest = Largest()
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    settings["zero_optimization"] |= SMALL if settings["zero_optimization"]["stage"] else {}
    muon.import_uncompiled()
    engine, *_ = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config=settings)
    dtype = next(engine.module.parameters()).dtype
    for micro_step in range(2 * MICRO_STEPS):
        engine.backward(engine(torch.ones(1, WIDTH, dtype=dtype)).float().square().mean())
        if micro_step == MICRO_STEPS:
            # The optimizer has its states by now. Inside the update gradients in fp32 are there as well.
            engine.basic_optimizer.register_step_pre_hook(largest.look)
        if micro_step >= MICRO_STEPS:
            largest.look()
        engine.step()
    sizes = EncoderConfig(layers=0)
    work = StepWork(sizes, parameters, word_calls=0, tokens=0, predicted=0, ranks=RANKS, micro_steps=MICRO_STEPS)
    estimated = memory_per_rank(work, settings, settings["zero_optimization"]["stage"])
    engine.destroy()
    return {
        "bytes_per_parameter": largest.bytes / parameters,
        "estimated": (estimated["total"] + estimated["host"]) / parameters,
        "finite": all(bool(torch.isfinite(p).all()) for p in engine.module.parameters()),
    }


def run(rank: int, arguments: argparse.Namespace) -> None:
    """One rank's life: every file, one after another."""
    allow_fp16_on_the_cpu()
    ranks.start(timeout_minutes=5)
    for path in FILES:
        config = load_config(arguments.config, [f"deepspeed={path}", f"batch.micro_steps={MICRO_STEPS}"])
        plan = BatchPlan({"mono": config.batch.mono, "pairs": config.batch.pairs}, RANKS, MICRO_STEPS)
        # "cuda", so that fp16 is not refused; the optimizer is PyTorch's, which needs no compiler.
        settings = deepspeed_settings(config, plan, "cuda")
        settings["optimizer"]["params"]["torch_adam"] = True
        settings["zero_force_ds_cpu_optimizer"] = False
        measured = measure(path, settings)
        if rank == 0:
            (arguments.out / f"{path.stem}.json").write_text(json.dumps(measured), encoding="utf-8")


def main() -> None:
    arguments = parse_arguments()
    fork(run, RANKS, arguments.port, arguments)


if __name__ == "__main__":
    main()
