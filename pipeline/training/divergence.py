"""Steps whose loss or gradient is not finite: none is applied, and too many in a row end the run with what they were made of.

Knows losses, sample indices and DeepSpeed's verdict on a step; nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.batch import MicroBatch
from pipeline.objectives.base import Objective
from pipeline.training import ranks

ADVICE = (
    "look at these samples; continue from an earlier checkpoint with a lower optimizer.lr or longer warm-up, or in fp32"
)
SHOWN = 4  # ranges of samples in a message


class NonFiniteSteps:
    """Counts steps in a row that DeepSpeed did not apply because of what was not finite in them."""

    def __init__(self, engine: Any, objectives: Sequence[Objective], most: int) -> None:
        self._engine, self._most, self._in_a_row = engine, most, 0
        self._streams = {objective.name: objective.streams for objective in objectives}
        _skip_without_zero(engine.optimizer)

    def check(self, step: int, batches: list[MicroBatch], losses: list[dict[str, Tensor]]) -> None:
        """After every optimizer step. ValueError where it ends `most` in a row.

        batches, losses: this rank's micro-steps, the losses by objective. Every rank sees the same, because DeepSpeed
        reduces its verdict over the ranks; only a step that was skipped is looked at, and costs communication.
        """
        if not self._engine.optimizer.overflow:
            self._in_a_row = 0
            return
        own = [
            (name, *_range(batch, stream))
            for batch, terms in zip(batches, losses, strict=True)
            for name, loss in terms.items()
            if not bool(torch.isfinite(loss))
            for stream in self._streams[name]
        ]
        bad_losses = ranks.gather(own)
        if not bad_losses and self._engine.fp16_enabled():
            return  # gradients too large for the loss scale, which falls until they fit, or until `LossScale` ends the run
        self._in_a_row += 1
        if self._in_a_row < self._most:
            return
        if bad_losses:
            what = "; ".join(
                f"the loss of {name} on {_shown([bad for bad in bad_losses if (bad[0], bad[1]) == (name, stream)])}"
                for name, stream in sorted({(bad[0], bad[1]) for bad in bad_losses})
            )
        else:
            streams = [("", *_range(batch, name)) for batch in batches for name in batch.streams]
            gathered = ranks.gather(streams)
            what = "the gradient, though no loss, on " + " and ".join(
                _shown([part for part in gathered if part[1] == name])
                for name in sorted({part[1] for part in gathered})
            )
        raise ValueError(
            f"step {step}: not finite {self._in_a_row} steps in a row (run.non_finite_steps), none of which was applied: "
            f"{what}; {ADVICE}"
        )


def poison(loss: Tensor) -> Tensor:
    """1, or NaN where the loss is not finite. A factor of the loss: its gradient may be finite even so, but not then."""
    return 1 + 0 * loss.detach()


def clear_padding(engine: Any) -> None:
    """Once, before the first step: zeros where ZeRO-3 has made equal parts of weights longer than the weights are.

    DeepSpeed leaves there what lies in memory. Where that was not finite, `check_weights` would refuse to save a sound model.
    """
    optimizer, rank = engine.optimizer, dist.get_rank()
    masters = getattr(optimizer, "fp32_partitioned_groups_flat", ())  # of ZeRO-3; each has the parts of one group
    for parameters, master in zip(getattr(optimizer, "fp16_groups", ()), masters, strict=False):
        sizes = [parameter.ds_tensor.numel() for parameter in parameters]
        in_memory = master is not None and master.numel() == sum(sizes)
        first = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            own = min(max(parameter.ds_numel - rank * size, 0), size)
            parameter.ds_tensor.data[own:].zero_()
            if in_memory:
                master.data[first + own : first + size].zero_()
            first += size


def check_weights(engine: Any) -> None:
    """Before saving. ValueError on every rank where a weight or a state of the optimizer is not finite on any."""
    state = engine.basic_optimizer.state
    tensors = [getattr(parameter, "ds_tensor", parameter) for parameter in engine.module.parameters()]
    tensors += list(state)
    tensors += [value for values in state.values() for value in values.values() if isinstance(value, Tensor)]
    bad = any(not bool(torch.isfinite(tensor.detach().sum(dtype=torch.float32))) for tensor in tensors)
    shared = torch.tensor(bad, device=engine.device, dtype=torch.int32)
    dist.all_reduce(shared)
    if bool(shared):
        raise ValueError(
            f"step {engine.global_steps}: weights or optimizer states are not finite; they were not saved; {ADVICE}"
        )


def _skip_without_zero(optimizer: Any) -> None:
    """In fp32 without ZeRO DeepSpeed applies any gradient: do what its own optimizers do, which have this flag."""
    if hasattr(optimizer, "overflow"):
        return
    apply = optimizer.step

    @wraps(apply)
    def step(*arguments: Any, **options: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        optimizer.overflow = not bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))
        if not optimizer.overflow:
            apply(*arguments, **options)

    optimizer.overflow, optimizer.step = False, step


def _range(batch: MicroBatch, stream: str) -> tuple[str, int, int]:
    """A stream and its first and last sample in a micro-batch, which are neighbours."""
    sample_S = batch[stream].sample_S
    return stream, int(sample_S.min()), int(sample_S.max())


def _shown(parts: list[tuple[str, str, int, int]]) -> str:
    """Ranges of one stream's samples, neighbours put together, and only the first few: `pairs 0-31, 64-95`."""
    merged: list[list[int]] = []
    for first, last in sorted((first, last) for _, _, first, last in parts):
        if merged and first == merged[-1][1] + 1:
            merged[-1][1] = last
        else:
            merged.append([first, last])
    more = f" and {len(merged) - SHOWN} more ranges" if len(merged) > SHOWN else ""
    return f"{parts[0][1]} " + ", ".join(f"{first}-{last}" for first, last in merged[:SHOWN]) + more
