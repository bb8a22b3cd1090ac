"""The state that objectives keep beside what is trained (`Objective.twins`): whole on every rank, and one file of a checkpoint.

DeepSpeed leaves such buffers alone, and with them a checkpoint that is cut anew for other ranks would lose them: so they have
a file of their own, which is loaded after either kind of load. Knows names, shapes and dtypes; nothing of what they mean.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.checkpoints import weights_only
from pipeline.checkpoints.manifest import MANIFEST, CheckpointInfo
from pipeline.training import ranks

NAME = "replicated.pt"
WAYS_OUT = (
    "use the objectives that it was trained with, or start a new run from its weights (`python -m pipeline export`)"
)


def state(twins: nn.ModuleDict) -> dict[str, Tensor]:
    """The buffers by name; empty where no objective keeps any."""
    return dict(twins.named_buffers())


def bytes_of(twins: nn.ModuleDict) -> int:
    """What the file takes."""
    return sum(tensor.nbytes for tensor in state(twins).values())


def check_precision(twins: nn.ModuleDict, deepspeed_json: Path) -> None:
    """ValueError where DeepSpeed has rounded what is to be held in fp32; after it has wrapped the model."""
    for name, tensor in state(twins).items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(
                f"{deepspeed_json}: data_types.buffer_dtype makes {name} {_short(tensor.dtype)}, in which small changes are "
                "lost; remove it"
            )


def check_equal(twins: nn.ModuleDict) -> None:
    """ValueError on every rank where they do not hold the same; every rank calls it before rank 0 saves."""
    digests = ranks.gather([[_digest(tensor) for tensor in state(twins).values()]])
    for name, *of_ranks in zip(state(twins), *digests, strict=True):
        if len(set(of_ranks)) > 1:
            raise ValueError(
                f"{name}: differs between ranks and was not saved; an objective's after_step is not the same there"
            )


def save(twins: nn.ModuleDict, checkpoint: Path) -> None:
    """Write the file into a checkpoint that is not sealed yet, on one rank; none where there is nothing to keep."""
    if held := state(twins):
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in held.items()}, checkpoint / NAME)


def load(twins: nn.ModuleDict, checkpoint: Path, info: CheckpointInfo) -> None:
    """Fill the buffers from a verified checkpoint, on every rank: the sealed one, not what it was converted to.

    Raises:
        ValueError: it holds others, or others are needed, by name, shape or dtype.
    """
    own, path = state(twins), checkpoint / NAME
    if NAME not in info.files:
        if own:
            raise ValueError(f"{checkpoint / MANIFEST}: lists no {NAME}, which has {next(iter(own))}; {WAYS_OUT}")
        return
    found = weights_only.read(path)
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{path}: holds no tensors by name; give another checkpoint")
    if others := found.keys() ^ own.keys():
        name = min(others)
        what = "holds no" if name in own else "holds, and no objective of this run keeps,"
        raise ValueError(f"{path}: {what} {name}; {WAYS_OUT}")
    for name, tensor in own.items():
        was, wants = found[name], tensor
        if (was.shape, was.dtype) != (wants.shape, wants.dtype):
            raise ValueError(f"{path}: {name} is {_described(was)}, this run has {_described(wants)}; {WAYS_OUT}")
        tensor.copy_(was)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data).hexdigest()


def _described(tensor: Tensor) -> str:
    return f"{_short(tensor.dtype)} {list(tensor.shape)}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
