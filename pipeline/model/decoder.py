"""A decoder of the encoder's widths: what writes, word by word, what it has read in the encoder's output.

Its layers are XLM-R's with cross-attention between the two blocks, as Hugging Face's `XLMRobertaForCausalLM` has them, or
DeltaLM's interleaved ones; it predicts by XLM-R's head. Knows packed batches and which sequence reads which; nothing of what
is read and written, nor why.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.tokenizers.special_ids import PAD
from pipeline.data.crossing import Crossing
from pipeline.data.packing import Packed
from pipeline.model.decoder_layer import DecoderLayer
from pipeline.model.encoder import Encoder, TokenType, init_weights, with_weight_of
from pipeline.model.generator import whole_tables
from pipeline.model.heads import WritingHead
from pipeline.settings import text_to_text

DECODER = "decoder"
"""The decoder's name among a model's modules beside the encoder, and so in its checkpoints."""
_OF_A_LAYER = {  # an encoder layer's parameters, and those of a decoder's halves that have the same part in them
    "attention": {
        "query": "query",
        "key": "key",
        "value": "value",
        "out": "attention_out",
        "norm": "attention_norm",
    },
    "feed_forward": {"up": "up", "down": "down", "norm": "norm"},
}
_TABLES = ("word.weight", "position.weight")


class Decoder(nn.Module):
    """Embeddings, layers and head of what writes; each position predicts the word that follows it."""

    def __init__(self, encoder: Encoder, settings: text_to_text.Decoder) -> None:
        """Widths, heads, dropout and initialisation are the encoder's; a gated relative position bias is the encoder's alone.

        Where `settings.embeddings` is tied, the tables of words and positions are the encoder's own parameters.
        """
        super().__init__()
        config = replace(encoder.config, layers=settings.layers, gated_relative=False)
        self.config, self.settings = config, settings
        tied = settings.embeddings == "tied"
        tables = (encoder.word, encoder.position)
        self.word, self.position = (with_weight_of(table) if tied else _like(table) for table in tables)
        self.token_type = TokenType(config.hidden)
        self.embedding_norm = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.layers = nn.ModuleList(
            DecoderLayer(config, settings.layout == "interleaved") for _ in range(settings.layers)
        )
        for module in self.modules():
            if not (tied and module in (self.word, self.position)):
                init_weights(module, config.init_std)
        self.head = WritingHead(self.word, config.norm_eps, config.init_std)

    def forward(
        self,
        memory_UD: Tensor,
        source: Packed,
        target: Packed,
        crossing: Crossing,
        label_T: Tensor,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What it says of the words `label_T`, int64, that follow the targets' tokens; everything on one device.

        memory_UD: the encoder's hidden states of `source`; crossing: from target to source; smoothing: of the labels. Returns
        scalars: (summed label-smoothed cross-entropy, fp32; summed negative log-likelihood, fp32 and without gradient;
        words that are the likeliest, int64).
        """
        hidden_TD = self.hidden(memory_UD, source, target, crossing)
        found: tuple[Tensor, Tensor, Tensor] = self.head(hidden_TD, label_T, smoothing)
        return found

    def hidden(self, memory_UD: Tensor, source: Packed, target: Packed, crossing: Crossing) -> Tensor:
        """Hidden states [T, D] of the targets' tokens, after the last layer."""
        assert len(memory_UD) == source.tokens, "the memory is of other sequences"
        summed_TD = self.token_type(self.word(target.ids_T) + self.position(target.positions_T))
        hidden_TD = F.dropout(self.embedding_norm(summed_TD), self.config.dropout, self.training)
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, memory_UD, target, crossing)
        return hidden_TD

    @torch.no_grad()
    def begin_as(self, encoder: Encoder) -> None:
        """Take the encoder's weights, as far as the settings say: of its lowest layers, and of its embeddings.

        A vanilla decoder's layer j is layer j; its cross-attention stays random, or is that layer's self-attention (XLM-T: Ma
        et al., arXiv 2012.15547). An interleaved one's is layers 2j and 2j + 1, cross-attention the self-attention of the
        second (DeltaLM). The head keeps its own.

        Raises:
            ValueError: the encoder has too few layers.
        """
        if self.settings.start == "random":
            return
        self._check_layers(encoder.config.layers)
        theirs = whole_tables(encoder.state_dict())
        own = self.state_dict()
        for name, their_name in self.beginnings().items():
            own[name].copy_(theirs[their_name])

    def beginnings(self) -> dict[str, str]:
        """The encoder's parameter that each of the decoder's begins as, by their names; what is not named begins random."""
        names = ["token_type.weight", "embedding_norm.weight", "embedding_norm.bias"]
        if self.settings.embeddings == "own":
            names += _TABLES
        named = dict(zip(names, names, strict=True))
        for layer in range(self.settings.layers):
            for part, (number, kind) in self._parts(layer).items():
                for ours, theirs in _OF_A_LAYER[kind].items():
                    for end in ("weight", "bias"):
                        named[f"layers.{layer}.{part}.{ours}.{end}"] = f"layers.{number}.{theirs}.{end}"
        return named

    def _parts(self, layer: int) -> dict[str, tuple[int, str]]:
        """For the parts of a layer the layer of the encoder, and the part of it, that they begin as."""
        if self.settings.layout == "interleaved":
            lower, upper = 2 * layer, 2 * layer + 1
            return {
                "attention": (lower, "attention"),
                "between": (lower, "feed_forward"),
                "cross": (upper, "attention"),
                "feed_forward": (upper, "feed_forward"),
            }
        parts = {"attention": (layer, "attention"), "feed_forward": (layer, "feed_forward")}
        return parts | ({"cross": (layer, "attention")} if self.settings.cross_attention == "self" else {})

    def _check_layers(self, available: int) -> None:
        of_each = 2 if self.settings.layout == "interleaved" else 1
        if of_each * self.settings.layers <= available:
            return
        each = ", two for each of an interleaved decoder" if of_each == 2 else ""
        raise ValueError(
            f"model.decoder.layers = {self.settings.layers}: the encoder has {available} layers to begin with{each}; set at "
            f"most {available // of_each}, or model.decoder.start=random"
        )


def _like(table: nn.Embedding) -> nn.Embedding:
    """An embedding of the same shape with weights of its own."""
    return nn.Embedding(table.num_embeddings, table.embedding_dim, padding_idx=PAD)
