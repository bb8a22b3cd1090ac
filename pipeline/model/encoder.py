"""XLM-R's encoder over packed batches, and the model that training wraps: one encoder, the objectives and their heads.

Architecture: RoBERTa (Liu et al., 2019) with XLM-R's vocabulary (Conneau et al., ACL 2020): post-norm, learned positions,
exact GELU. `pipeline/weights/hugging_face.py` maps the parameters to and from Hugging Face's `XLMRobertaForMaskedLM`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.tokenizers.special_ids import PAD
from pipeline.data.batch import MicroBatch
from pipeline.data.packing import Packed, join
from pipeline.model.attention import attend
from pipeline.model.flops import encoder_forward_flops
from pipeline.model.linear import Linear, LinearGELU
from pipeline.objectives.base import Objective
from pipeline.settings.sizes import EncoderConfig


class Layer(nn.Module):
    """Post-norm transformer layer: attention inside each sequence, then the feed-forward network."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value = Linear(width, width), Linear(width, width), Linear(width, width)
        self.attention_out = Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.up = LinearGELU(width, config.feed_forward)
        self.down = Linear(config.feed_forward, width)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)

    def forward(self, hidden_TD: Tensor, packed: Packed) -> Tensor:
        projected = self.query(hidden_TD), self.key(hidden_TD), self.value(hidden_TD)
        mixed_TD = self.attention_out(attend(*projected, packed, self.heads, self.dropout if self.training else 0.0))
        hidden_TD = self.attention_norm(hidden_TD + F.dropout(mixed_TD, self.dropout, self.training))
        fed_TD = self.down(self.up(hidden_TD))
        return self.norm(hidden_TD + F.dropout(fed_TD, self.dropout, self.training))


class Encoder(nn.Module):
    """XLM-R's encoder without pooler. Input: a packed batch; output: hidden states [T, D], no padding anywhere."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.word = nn.Embedding(config.vocab_size, config.hidden, padding_idx=PAD)
        self.position = nn.Embedding(config.positions, config.hidden, padding_idx=PAD)
        self.token_type = nn.Embedding(1, config.hidden)
        self.embedding_norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.apply(partial(init_weights, std=config.init_std))

    def forward(self, packed: Packed, layers: int | None = None) -> Tensor:
        """Hidden states [T, D] after `layers` layers (None: all; 0: embeddings), as Hugging Face counts them."""
        return self.hidden_states(packed, layers)[-1]

    def hidden_states(self, packed: Packed, layers: int | None = None) -> list[Tensor]:
        """Hidden states [T, D] after layer 0 (embeddings), 1, … `layers`, where the encoder is; so need not be the batch."""
        device = self.word.weight.device
        if packed.ids_T.device != device:
            packed = packed.to(device)
        type_D = self.token_type(torch.zeros((), dtype=torch.long, device=packed.ids_T.device))
        summed_TD = self.word(packed.ids_T) + self.position(packed.positions_T) + type_D
        hidden_TD = F.dropout(self.embedding_norm(summed_TD), self.config.dropout, self.training)
        states = [hidden_TD]
        for layer in self.layers[:layers]:
            states.append(layer(states[-1], packed))
        return states


class MicroStepEncoder:
    """What objectives see of the encoder during one micro-step: a batch that two of them read is encoded once.

    The batches of `together` are encoded in one pass when the first of them is asked for: fewer and larger products, and
    one gradient of the word embedding instead of one per stream.
    """

    def __init__(self, encoder: Encoder, together: Sequence[Packed] = ()) -> None:
        self._encoder, self._together = encoder, together
        # The batch is kept beside its hidden states: the id of one that is gone may be given to another.
        self._memo: dict[tuple[int, int | None], tuple[Packed, Tensor]] = {}

    def __call__(self, packed: Packed, layers: int | None = None) -> Tensor:
        """Hidden states [T, D] of `packed` after `layers` layers (None: all)."""
        if (id(packed), layers) not in self._memo:
            parts = self._together if any(packed is part for part in self._together) else [packed]
            hidden_TD = self._encoder(join(parts), layers)
            for part, part_TD in zip(parts, hidden_TD.split([part.tokens for part in parts]), strict=True):
                self._memo[id(part), layers] = part, part_TD
        return self._memo[id(packed), layers][1]


class PretrainingModel(nn.Module):
    """The module that DeepSpeed wraps: every forward of a training run goes through `forward`."""

    def __init__(self, encoder: Encoder, objectives: Sequence[Objective]) -> None:
        super().__init__()
        self.encoder = encoder
        self.objectives = list(objectives)
        self.heads = nn.ModuleDict()
        for objective in objectives:
            for name, build in objective.heads(encoder).items():
                if name not in self.heads:  # objectives that name the same head share it
                    self.heads[name] = build()

    def flops(self, batch: MicroBatch) -> float:
        """Floating-point operations of labelling, forward and backward of a micro-step, by the rules of `flops`."""
        sizes = self.encoder.config
        encoding = [
            encoder_forward_flops(sizes, stream.masked.sequence_lengths, sizes.layers)
            for stream in batch.streams.values()
        ]
        return 3 * sum(encoding) + sum(o.flops(sizes, batch[o.reads]) for o in self.objectives if o.reads in batch)

    def forward(self, work: str, batch: MicroBatch | Packed, layers: int | None = None) -> dict[str, dict[str, Tensor]]:
        """One of three kinds of work, each returning plain dictionaries of tensors.

        "label": objectives write their labels into the micro-batch (no gradient), and report metrics.
        "losses": per objective its summed loss and its count of predicted tokens, and metrics.
        "hidden": hidden states of a packed batch after layers 0 … `layers`, keyed by layer.
        """
        if work == "hidden":
            assert isinstance(batch, Packed)
            return {"hidden": {str(k): h for k, h in enumerate(self.encoder.hidden_states(batch, layers))}}
        assert isinstance(batch, MicroBatch) and work in ("label", "losses")
        if work == "label":
            encode = MicroStepEncoder(self.encoder)
            return {o.name: o.label(encode, batch[o.reads]) for o in self.objectives if o.reads in batch}
        encode = MicroStepEncoder(self.encoder, [stream.masked for stream in batch.streams.values()])
        return {o.name: o.loss(encode, self.heads, batch[o.reads]) for o in self.objectives if o.reads in batch}


def init_weights(module: nn.Module, std: float) -> None:
    """BERT's initialisation: normal(0, std), zero biases, zero padding rows."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
