"""Any encoder of Transformers behind the interface of our own: a packed batch in, hidden states [T, D] out.

Knows a Hugging Face model in memory; nothing of files or tokenizers. Sequences of similar lengths are padded together, as the
batch's attention groups have them, and layers above the wanted one are left out where this is found to change nothing.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.data.packing import AttentionGroup, Packed, pack
from pipeline.model.linear import PaddedLinear


class Shape(Protocol):
    """What users of an encoder ask of its sizes."""

    @property
    def layers(self) -> int: ...

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, special tokens included."""
        ...


class AnyEncoder(Protocol):
    """What the aligner and the measures ask of a model: our `Encoder`, or a `TransformersEncoder`."""

    @property
    def config(self) -> Shape: ...

    def __call__(self, packed: Packed, layers: int, /) -> Any: ...

    def hidden_states(self, packed: Packed, layers: int | None = None) -> list[Tensor]: ...

    def parameters(self) -> Any: ...

    def to(self, *where: Any) -> Any: ...


@dataclass(frozen=True)
class TransformersShape:
    """Sizes of a model of whatever architecture."""

    layers: int
    longest: int


class TransformersEncoder(nn.Module):
    """A model of Transformers whose output has `hidden_states`, in eval mode.

    Args:
        model: takes `input_ids` and `attention_mask`.
        shape: its sizes.
        pad_id: what sequences are padded with, on the right.
        probe: ids of a short sequence, by which is found whether upper layers can be left out.

    Raises:
        ValueError: the model does not give a hidden state for every token after each layer.
    """

    def __init__(self, model: nn.Module, shape: TransformersShape, pad_id: int, probe: Sequence[int]) -> None:
        super().__init__()
        self.model, self.config = model.eval(), shape
        for module in model.modules():
            if type(module) is nn.Linear:  # the same parameters; products as our own layers take them
                module.__class__ = PaddedLinear
        self._pad_id = pad_id
        self._probe = pack([list(probe), [*probe, *probe]])
        takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._types = int(getattr(model.config, "type_vocab_size", 0) or 0) if takes_types else 0
        self._up_to: dict[int, nn.Module] = {}  # models without the layers that these numbers of layers do not need
        self._lock = threading.Lock()
        self._check()

    @torch.no_grad()
    def _check(self) -> None:
        states = self.hidden_states(self._probe)  # installs what records them, before any part of the model is copied
        shapes = {tuple(state.shape[:-1]) for state in states}
        if len(states) != self.config.layers + 1 or shapes != {(self._probe.tokens,)}:
            raise ValueError(
                f"gives {len(states)} hidden states of shapes {sorted(shapes)} for {self._probe.tokens} tokens and "
                f"{self.config.layers} layers"
            )

    def forward(self, packed: Packed, layers: int | None = None) -> Tensor:
        """Hidden states [T, D] after `layers` layers (None: all; 0: embeddings)."""
        return self._run(packed, self.config.layers if layers is None else layers, every=False)[-1]

    def hidden_states(self, packed: Packed, layers: int | None = None) -> list[Tensor]:
        """Hidden states [T, D] after layer 0 (embeddings), 1, … `layers`, where the encoder is; so need not be the batch."""
        return self._run(packed, self.config.layers if layers is None else layers, every=True)

    def _run(self, packed: Packed, layers: int, every: bool) -> list[Tensor]:
        device = next(self.parameters()).device
        if packed.ids_T.device != device:
            packed = packed.to(device)
        model = self.model if layers == self.config.layers else self._model_up_to(layers)
        of_groups = [self._states_of(model, packed, group) for group in packed.groups]
        wanted = slice(None) if len(of_groups[0]) <= layers + 1 else slice(layers + 1)
        wanted = wanted if every else slice(layers, layers + 1)
        by_layer = zip(*(states[wanted] for states in of_groups), strict=True)
        return [torch.cat([state_GLD.flatten(0, 1) for state_GLD in layer])[packed.place_T] for layer in by_layer]

    def _states_of(self, model: nn.Module, packed: Packed, group: AttentionGroup) -> tuple[Tensor, ...]:
        """Hidden states [G, L, D] of one group, after every layer that the model has."""
        ids_GL = packed.ids_T[group.index_GL]
        inputs: dict[str, Tensor] = {}
        if group.mask_G11L is not None:
            mask_GL = group.mask_G11L[:, 0, 0]
            ids_GL = ids_GL.masked_fill(~mask_GL, self._pad_id)
            inputs["attention_mask"] = mask_GL.long()
        if packed.types_T is not None and self._types > 1:
            inputs["token_type_ids"] = packed.types_T[group.index_GL]
        states: tuple[Tensor, ...] = model(input_ids=ids_GL, output_hidden_states=True, **inputs).hidden_states
        return states

    def _model_up_to(self, layers: int) -> nn.Module:
        with self._lock:
            if layers not in self._up_to:
                self._up_to[layers] = self._shortened(layers)
            return self._up_to[layers]

    @torch.no_grad()
    def _shortened(self, layers: int) -> nn.Module:
        """The model without the layers that the hidden states of this one do not need; the whole model where that is not so.

        One more layer is kept where a model changes what its last one gives, as by a norm of the whole stack.
        """
        lists = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList) and len(module) == self.config.layers
        ]
        if len(lists) != 1:
            return self.model
        wanted = self._probed(self.model, layers)
        for kept in sorted({max(layers, 1), layers + 1}):
            model = _with_first(self.model, lists[0], kept)
            try:
                if torch.equal(wanted, self._probed(model, layers)):
                    return model
            except Exception:  # of any kind, where it needs all of its layers
                break
        return self.model

    def _probed(self, model: nn.Module, layer: int) -> Tensor:
        """Hidden states [T, D] of the probe after that layer, padding among them."""
        packed = self._probe.to(next(self.parameters()).device)
        states = [self._states_of(model, packed, group)[layer] for group in packed.groups]
        return torch.cat([state_GLD.flatten(0, 1) for state_GLD in states])


def _with_first(model: nn.Module, path: str, kept: int) -> nn.Module:
    """The model with the first `kept` modules of the list at `path`; parameters are shared, the model itself stays whole."""
    first, _, rest = path.partition(".")
    changed = copy.copy(model)
    changed._modules = dict(model._modules)
    child = model._modules[first]
    assert child is not None
    if rest:
        changed._modules[first] = _with_first(child, rest, kept)
    else:
        assert isinstance(child, nn.ModuleList)
        changed._modules[first] = child[:kept]
    return changed
