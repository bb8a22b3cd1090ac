"""How much memory the process needed at most."""

from __future__ import annotations

import resource

import torch


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process has used so far: allocated on its GPU, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
