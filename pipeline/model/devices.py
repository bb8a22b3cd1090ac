"""Which device a model runs on, and in which numbers, as a user names them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

AUTO = "auto"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_SINCE = (8, 0)
"""The compute capability from which GPUs calculate in bf16."""


@dataclass(frozen=True)
class Place:
    """Where a model runs, and in which numbers."""

    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        name = next(name for name, dtype in DTYPES.items() if dtype is self.dtype)
        return f"on {describe(self.device)} in {name}"


def choose_place(device: str | torch.device, dtype: str) -> Place:
    """What `device_of` and `dtype_of` say."""
    on = device_of(device)
    return Place(on, dtype_of(dtype, on))


def on_gpu(tensor: Tensor) -> bool:
    """Whether operations are to be those of a GPU: whoever counts these without one says yes here."""
    return tensor.is_cuda


def launching_on(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's; on a CPU there is nothing to choose."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """`fp32`, `bf16` or `fp16`; `auto` is fp32 on the CPU, on a GPU bf16 where it calculates in it, else fp16.

    Raises:
        ValueError: there is no such name.
    """
    if name == AUTO:
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= BF16_SINCE else torch.float16
    if name not in DTYPES:
        raise ValueError(f"--dtype {name}: choose {AUTO}, {', '.join(DTYPES)}")
    return DTYPES[name]


def device_of(name: str | torch.device, option: str = "--device") -> torch.device:
    """`cpu`, `cuda` or `cuda:N`; `auto` is CUDA where there is a GPU that PyTorch can use, else the CPU.

    Raises:
        ValueError: there is no such device here; `option` is what the message calls it.
    """
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise ValueError(f"{option} {name}: no such device; choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{option} {name}: the aligner runs on cpu and cuda alone; choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            there = f"there are {count}, from cuda:0" if count else "PyTorch finds no GPU here"
            raise ValueError(f"{option} {name}: {there}; choose another, or auto")
    return device


def describe(device: torch.device) -> str:
    """The device in words: `the CPU`, or the GPU's name."""
    if device.type == "cpu":
        return "the CPU"
    return f"{device} ({torch.cuda.get_device_name(device)})"
