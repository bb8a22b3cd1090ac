"""Which device a model runs on, as a user names it."""

from __future__ import annotations

import torch

AUTO = "auto"


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
