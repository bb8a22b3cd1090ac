"""DeltaLM's interleaved decoder as a model of Transformers, which has no class for it: XLM-R's with one more part in a layer.

So Transformers' own search writes with it, cache and beams and all, and `EncoderDecoderModel` takes it as a decoder once
`register` has told its name. Knows nothing of files, nor of how the weights came about.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, XLMRobertaConfig, XLMRobertaForCausalLM
from transformers.models.xlm_roberta.modeling_xlm_roberta import (
    XLMRobertaAttention,
    XLMRobertaIntermediate,
    XLMRobertaOutput,
)

from pipeline.model.decoder_layer import INTERLEAVED_KIND


class InterleavedConfig(XLMRobertaConfig):
    """An `XLMRobertaConfig` under a name of its own."""

    model_type = INTERLEAVED_KIND


class _FeedForward(nn.Module):
    def __init__(self, config: InterleavedConfig) -> None:
        super().__init__()
        self.intermediate = XLMRobertaIntermediate(config)
        self.output = XLMRobertaOutput(config)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        fed_BLD: Tensor = self.output(self.intermediate(hidden_BLD), hidden_BLD)
        return fed_BLD


class _AttentionThenFeedForward(XLMRobertaAttention):
    """Self-attention of a layer, and the feed-forward network that comes before its cross-attention."""

    def __init__(self, config: InterleavedConfig, layer: int) -> None:
        super().__init__(config, is_causal=True, layer_idx=layer)
        self.between = _FeedForward(config)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """(hidden states [B, L, D], attention weights), as of the attention alone."""
        found: Any = super().forward(*args, **kwargs)
        hidden_BLD, weights = found
        return self.between(hidden_BLD), weights


class InterleavedForCausalLM(XLMRobertaForCausalLM):
    """`XLMRobertaForCausalLM` whose layers are self-attention, feed-forward network, cross-attention, feed-forward network."""

    config_class = InterleavedConfig

    def __init__(self, config: InterleavedConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.roberta.encoder.layer):
            layer.attention = _AttentionThenFeedForward(config, number)
        self.post_init()


@cache
def register() -> None:
    """From now on Transformers' Auto classes, and so `EncoderDecoderModel`, know the name of such a decoder."""
    AutoConfig.register(INTERLEAVED_KIND, InterleavedConfig, exist_ok=True)
    AutoModelForCausalLM.register(InterleavedConfig, InterleavedForCausalLM, exist_ok=True)
