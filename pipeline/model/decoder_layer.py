"""One layer of a decoder, and the three parts that it is made of: each with its residual and the norm after it.

Knows hidden states and where sequences lie; nothing of words.
"""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.data.crossing import Crossing
from pipeline.data.packing import Packed
from pipeline.model.attention import attend, attend_across
from pipeline.model.linear import Linear, LinearGELU, linears
from pipeline.model.residual_norm import ResidualNorm
from pipeline.settings.sizes import EncoderConfig

INTERLEAVED_KIND = "xlm-roberta-interleaved"
"""The model_type of a decoder of interleaved layers in a config.json: `interleaved_lm` builds it for Transformers."""


class _Attention(nn.Module):
    """What both kinds of attention have: four projections, and the norm after the residual."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden
        self.heads, self.rate = config.heads, config.dropout
        self.query, self.key, self.value = Linear(width, width), Linear(width, width), Linear(width, width)
        self.out = Linear(width, width)
        self.norm = ResidualNorm(width, eps=config.norm_eps)

    @property
    def dropout(self) -> float:
        return self.rate if self.training else 0.0

    def _added(self, hidden_TD: Tensor, mixed_TD: Tensor) -> Tensor:
        added_TD: Tensor = self.norm(hidden_TD, self.out(mixed_TD), self.rate)
        return added_TD


class SelfAttention(_Attention):
    """Of every token to itself and to those before it in its sequence."""

    def forward(self, hidden_TD: Tensor, target: Packed) -> Tensor:
        (query_TD, key_TD, value_TD), hidden_TD = linears(hidden_TD, (self.query, self.key, self.value))
        sides = query_TD, key_TD, value_TD
        return self._added(hidden_TD, attend(*sides, target, self.heads, self.dropout, causal=True))


class CrossAttention(_Attention):
    """Of every token of a target to all tokens of its source."""

    def forward(self, hidden_TD: Tensor, memory_UD: Tensor, target: Packed, crossing: Crossing) -> Tensor:
        (key_UD, value_UD), _ = linears(memory_UD, (self.key, self.value))
        sides = self.query(hidden_TD), key_UD, value_UD
        return self._added(hidden_TD, attend_across(*sides, target, crossing, self.heads, self.dropout))


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.rate = config.dropout
        self.up = LinearGELU(config.hidden, config.feed_forward)
        self.down = Linear(config.feed_forward, config.hidden)
        self.norm = ResidualNorm(config.hidden, eps=config.norm_eps)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        raised_TF, hidden_TD = self.up(hidden_TD)
        added_TD: Tensor = self.norm(hidden_TD, self.down(raised_TF), self.rate)
        return added_TD


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward network: a layer of Hugging Face's `XLMRobertaForCausalLM`.

    interleaved: with a feed-forward network after either attention (DeltaLM: Ma et al., arXiv 2106.13736), so that the halves
    of a layer are two layers of an encoder.
    """

    def __init__(self, config: EncoderConfig, interleaved: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.between = FeedForward(config) if interleaved else None
        self.cross = CrossAttention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden_TD: Tensor, memory_UD: Tensor, target: Packed, crossing: Crossing) -> Tensor:
        """Hidden states [T, D] of the targets' tokens; memory_UD: the encoder's, of the sources' tokens."""
        hidden_TD = self.attention(hidden_TD, target)
        if self.between is not None:
            hidden_TD = self.between(hidden_TD)
        hidden_TD = self.cross(hidden_TD, memory_UD, target, crossing)
        output_TD: Tensor = self.feed_forward(hidden_TD)
        return output_TD
