"""What all ranks and micro-steps of a step made, in the order of its samples, however it was cut; and the way back.

Knows tensors and ranks; nothing of objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def in_order(own: Sequence[Tensor]) -> Tensor:
    """[N, …] of the step's N samples, on every rank. own: this rank's [B, …] of each micro-step; every rank calls it."""
    own_MB = torch.stack(list(own))
    if _ranks() == 1:
        return own_MB.flatten(0, 1)
    of_ranks = [torch.empty_like(own_MB) for _ in range(_ranks())]
    dist.all_gather(of_ranks, own_MB)
    return torch.stack(of_ranks, dim=1).flatten(0, 2)


def own_parts(of_step: Tensor, micro_steps: int) -> Tensor:
    """[micro-steps, B, …]: this rank's parts of what `in_order` put together."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return of_step.unflatten(0, (micro_steps, _ranks(), -1))[:, rank]


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
