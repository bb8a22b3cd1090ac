"""A zero for every parameter that has no part in a micro-step's losses: ZeRO needs a gradient of each, on every rank.

A parameter unused on one rank crashes ZeRO-1 and 2 and hangs ZeRO-3; one unused on all of them gets the last step's gradient
again at ZeRO-3. Knows autograd's graph and modules; nothing of objectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def touched(model: nn.Module, losses: Sequence[Tensor]) -> list[Tensor]:
    """The losses as they are, in which every trained parameter of the model now takes part, with a gradient of zero if need be.

    Without gradient, or without losses, there is nothing to do.
    """
    found = list(losses)
    if not found or not torch.is_grad_enabled():
        return found
    used = {id(leaf) for leaf in leaves(found)}
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in used]
        if own:
            found[0] = _touch(module, own, found[0])
            used |= {id(parameter) for parameter in own}  # one that is tied belongs to two modules
    return found


def leaves(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The parameters that the tensors were computed from."""
    waiting = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):  # where autograd accumulates a gradient
            yield node.variable
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)


def _touch(module: nn.Module, parameters: list[nn.Parameter], loss: Tensor) -> Tensor:
    """The loss and a zero times each parameter.

    Within the module's own call, because ZeRO-3 gathers weights for that, and for its backward, and at no other time. Nothing
    is read of a weight, which may be infinite.
    """

    def forward(given: Tensor) -> Any:
        return given + sum(parameter.flatten()[:0].sum() for parameter in parameters)

    assert "forward" not in vars(module)
    module.forward = forward
    try:
        found: Tensor = module(loss)
    finally:
        del module.forward
    return found
