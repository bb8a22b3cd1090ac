"""XLM-R's encoder over packed batches.

Architecture: RoBERTa (Liu et al., 2019) with XLM-R's vocabulary (Conneau et al., ACL 2020): post-norm, learned positions,
exact GELU; if asked for, XLM-E's relative position bias beside them. `pipeline/weights/hugging_face.py` maps the parameters to
and from Hugging Face's `XLMRobertaForMaskedLM`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.tokenizers.special_ids import PAD
from pipeline.data.packing import Packed
from pipeline.model.attention import attend, without_padding
from pipeline.model.flexible_attention import blocks_of
from pipeline.model.linear import Joined, Linear, LinearGELU, joined_parameters, linears
from pipeline.model.position_bias import Distances, Gate, Relative
from pipeline.model.residual_norm import ResidualNorm
from pipeline.settings.sizes import EncoderConfig


class Layer(nn.Module):
    """Post-norm transformer layer: attention inside each sequence, then the feed-forward network."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value = Linear(width, width), Linear(width, width), Linear(width, width)
        self.attention_out = Linear(width, width)
        self.attention_norm = ResidualNorm(width, eps=config.norm_eps)
        self.up = LinearGELU(width, config.feed_forward)
        self.down = Linear(config.feed_forward, width)
        self.norm = ResidualNorm(width, eps=config.norm_eps)
        self.gate = Gate(width, config.heads) if config.gated_relative else None

    @property
    def projections(self) -> tuple[Linear, Linear, Linear]:
        return self.query, self.key, self.value

    def forward(
        self, hidden_TD: Tensor, packed: Packed, relative: Relative | None = None, joined: Joined | None = None
    ) -> Tensor:
        """relative: None: positions add nothing to scores. joined: the projections' parameters, see `linears`."""
        (query_TD, key_TD, value_TD), hidden_TD = linears(hidden_TD, self.projections, joined)
        dropout = self.dropout if self.training else 0.0
        bias = None
        if relative is not None:
            assert self.gate is not None
            bias = relative.gated(self.gate(query_TD))
        mixed_TD = self.attention_out(attend(query_TD, key_TD, value_TD, packed, self.heads, dropout, bias))
        hidden_TD = self.attention_norm(hidden_TD, mixed_TD, self.dropout)
        raised_TF, hidden_TD = self.up(hidden_TD)
        output_TD: Tensor = self.norm(hidden_TD, self.down(raised_TF), self.dropout)
        return output_TD


class TokenType(nn.Embedding):
    """The embedding of the one type that all tokens have, added to their others: nothing is looked up."""

    def __init__(self, width: int) -> None:
        super().__init__(1, width)

    def forward(self, input: Tensor) -> Tensor:
        return input + self.weight


class Encoder(nn.Module):
    """XLM-R's encoder without pooler. Input: a packed batch; output: hidden states [T, D], no padding anywhere."""

    def __init__(self, config: EncoderConfig, tables: Sequence[nn.Embedding] | None = None) -> None:
        """tables: embeddings of words and positions that are another encoder's too, and keep their weights; None: own ones."""
        super().__init__()
        self.config = config
        self.word: nn.Embedding
        self.position: nn.Embedding
        self.word, self.position = tables or [
            nn.Embedding(count, config.hidden, padding_idx=PAD) for count in (config.vocab_size, config.positions)
        ]
        self.token_type = TokenType(config.hidden)
        self.embedding_norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.distances = Distances(config.heads) if config.gated_relative else None
        for module in self.modules():
            if module not in (tables or ()):
                init_weights(module, config.init_std)

    def forward(self, packed: Packed, layers: int | None = None, every: bool = False) -> Tensor | list[Tensor]:
        """Hidden states [T, D] after `layers` layers (None: all; 0: embeddings), as Hugging Face counts them.

        every: a list of those after each layer up to there.
        """
        states = self.hidden_states(packed, layers)
        return states if every else states[-1]

    def hidden_states(self, packed: Packed, layers: int | None = None) -> list[Tensor]:
        """Hidden states [T, D] after layer 0 (embeddings), 1, … `layers`, where the encoder is; so need not be the batch."""
        device = self.word.weight.device
        if packed.ids_T.device != device:
            packed = packed.to(device)
        summed_TD = self.token_type(self.word(packed.ids_T) + self.position(packed.positions_T))
        hidden_TD = F.dropout(self.embedding_norm(summed_TD), self.config.dropout, self.training)
        states = [hidden_TD]
        relative = None if layers == 0 else self._relative(hidden_TD, packed)
        through = [layer for layer in self.layers[:layers] if isinstance(layer, Layer)]
        joined = joined_parameters([layer.projections for layer in through])
        for layer, of_layer in zip(through, joined, strict=True):
            states.append(layer(states[-1], packed, relative, of_layer))
        return states

    def _relative(self, hidden_TD: Tensor, packed: Packed) -> Relative | None:
        if self.distances is None:
            return None
        dropout = self.config.dropout if self.training else 0.0
        flexible = without_padding(hidden_TD, self.config.heads, dropout)
        return Relative(self.distances(packed.longest), blocks_of(packed) if flexible else None)


def with_weight_of(table: nn.Embedding) -> nn.Embedding:
    """An embedding with the same parameter, in a module of its own."""
    with torch.device("meta"):  # nothing is drawn
        shared = nn.Embedding(table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx)
    shared.weight = table.weight
    return shared


def init_weights(module: nn.Module, std: float) -> None:
    """BERT's initialisation: normal(0, std), zero biases, zero padding rows."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
