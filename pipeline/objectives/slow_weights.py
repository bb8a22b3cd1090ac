"""Weights that follow trained ones slowly: an exponential moving average in fp32, whatever the precision of the run.

In half precision a small step is rounded away, and the average stands still. Knows modules and DeepSpeed's cut weights; nothing
of objectives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import deepspeed
from torch import nn

from pipeline.model.encoder import Encoder


def cut_copy(encoder: Encoder, layers: int) -> Encoder:
    """A copy of the encoder as far as its first `layers` layers."""
    cut = copy.deepcopy(encoder, {id(encoder.layers): copy.deepcopy(encoder.layers[:layers])})
    cut.config = replace(encoder.config, layers=layers)
    return cut


def follow(slow: nn.Module, trained: nn.Module, momentum: float) -> None:
    """slow = momentum · slow + (1 − momentum) · trained, for all weights that the slow module has; every rank calls it.

    momentum 1 leaves it as it is. At ZeRO-3 weights are gathered, one layer at a time and in the same order on every rank.
    """
    if momentum == 1.0:
        return
    for slow_part, trained_part in _parts(slow, trained):
        with deepspeed.zero.GatheredParameters(list(trained_part.parameters())):
            for name, parameter in trained_part.named_parameters():
                slow_part.get_buffer(name).lerp_(parameter.detach().float(), 1.0 - momentum)


def _parts(slow: nn.Module, trained: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Modules of both, the larger ones cut: embeddings and layers of an encoder."""
    for name, part in slow.named_children():
        other = trained.get_submodule(name)
        yield from _parts(part, other) if isinstance(part, nn.ModuleList) else [(part, other)]
    if not any(True for _ in slow.children()):
        yield slow, trained
