"""The process's memory: keeping what was freed for the next step, and how much was needed at most."""

from __future__ import annotations

import ctypes
import resource

import torch

# mallopt's parameters, from glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Have the C library keep freed memory instead of giving it back to the kernel; CPU training only.

    Gradients of a large vocabulary are hundreds of megabytes each. By default every one is mapped anew, page by page, at
    each step, which took a fifth of the step's time. Other C libraries than glibc have no such switch: nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process has used so far: allocated on its GPU, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
