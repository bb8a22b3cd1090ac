"""What a device can do at most, and how much memory the process needed."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Dense half-precision peaks of the data sheets (no sparsity), by a part of the name that CUDA gives the device.
PEAK_HALF_FLOPS = {"B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "V100": 125e12}
# Bytes of memory, likewise; of those that are sold with more or less of it, the most.
MEMORY = {"B200": 180e9, "H200": 141e9, "H100 PCIe": 80e9, "H100": 80e9, "A100": 80e9, "V100": 32e9}


def peak_flops(device: torch.device) -> float | None:
    """What the device can do in half precision per second; None where its data sheet is not listed here, as for CPUs."""
    if device.type != "cuda":
        return None
    import torch  # only where there is one already: the peaks are told without it

    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_HALF_FLOPS.items() if part in name), None)


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process has used so far: allocated on its GPU, or resident on the host."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
