"""What the `*_worker.py` scripts share: their arguments, ranks forked from one process, and what only tests do to training.

Forking spares the seconds that a launcher and the imports take in each rank; train.py's own loop is what runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # as every optimizer does, here once for all ranks
import torch.multiprocessing
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from torch import Tensor

import pipeline.train
from pipeline.training.build import deepspeed_settings

REPOSITORY = Path(__file__).resolve().parents[2]

INDUCTOR = "torch._inductor.compile_fx"
"""Of PyTorch's compiler what takes a second to import, and what no rank is to ask for."""
WAS_THERE = INDUCTOR in sys.modules  # some versions of DeepSpeed import it with themselves


def parse_arguments() -> argparse.Namespace:
    """--config CONFIG --out DIR --port PORT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def fork(life: Callable[..., None], ranks: int, port: int, *given: object) -> None:
    """`life(rank, *given)` in as many processes, each of which finds the others as under the launcher."""
    torch.multiprocessing.start_processes(_rank, (life, ranks, port, *given), nprocs=ranks, start_method="fork")


def _rank(rank: int, life: Callable[..., None], ranks: int, port: int, *given: object) -> None:
    join(rank, ranks, port)
    life(rank, *given)
    assert WAS_THERE or INDUCTOR not in sys.modules, "training asked for PyTorch's compiler"
    torch.distributed.destroy_process_group()


def join(rank: int, ranks: int, port: int) -> None:
    """Set what the launcher would tell this process."""
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in world.items()}, MASTER_ADDR="127.0.0.1")


def allow_fp16_on_the_cpu() -> None:
    """DeepSpeed and `deepspeed_settings` refuse it unless told otherwise."""
    CPU_Accelerator.is_fp16_supported = lambda self: True
    pipeline.train.deepspeed_settings = lambda config, plan, device: deepspeed_settings(config, plan, "cuda")


class InfiniteGradient(torch.autograd.Function):
    """A loss as it is, with a gradient that is infinite."""

    @staticmethod
    def forward(context: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * float("inf")
