"""Floating-point operations that a step needs by its definition, and what a GPU can do at most.

A product of [a, b] and [b, c] counts 2·a·b·c; a backward counts twice its forward. Counted: products with weights, attention
scores and sums of every sequence's own L × L, the vocabulary at predicted tokens only, labelling up to its layer. Not
counted: padding, anything done twice to save memory, norms, softmax, Sinkhorn. So waste lowers the utilisation.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from pipeline.packing import Packed

# Dense half-precision peaks of the data sheets (no sparsity), by a part of the name that CUDA gives the device.
PEAK_HALF_FLOPS = {"B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "V100": 125e12}


class Sizes(Protocol):
    """What the count depends on."""

    @property
    def hidden(self) -> int: ...
    @property
    def feed_forward(self) -> int: ...


def encoder_forward_flops(sizes: Sizes, packed: Packed, layers: int) -> float:
    """One forward of `layers` layers: per token 8·D² + 4·D·F for the weights, and 4·D·L for a sequence of L tokens."""
    lengths_S = np.diff(packed.offsets_S1).astype(np.float64)
    weights = 8 * sizes.hidden**2 + 4 * sizes.hidden * sizes.feed_forward
    return layers * float(weights * lengths_S.sum() + 4 * sizes.hidden * (lengths_S**2).sum())


def peak_flops(device: torch.device) -> float | None:
    """What the device can do in half precision per second; None where its data sheet is not listed here, as for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_HALF_FLOPS.items() if part in name), None)
