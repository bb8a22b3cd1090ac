"""The generator of replaced tokens: a few layers of the encoder's widths, and a masked-LM head that also draws words.

Knows encoders and heads; nothing of batches or of what its words are for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.data.packing import Packed
from pipeline.model.encoder import Encoder
from pipeline.model.heads import DrawingHead

Embeddings = Literal["tied", "own"]
"""Whether words and positions have the encoder's tables in the generator, or others."""


class Generator(nn.Module):
    """What predicts words behind blanks, and what stands there for the encoder to find out."""

    def __init__(self, encoder: Encoder, layers: int, embeddings: Embeddings) -> None:
        super().__init__()
        sizes = replace(encoder.config, layers=layers)
        tables = None if embeddings == "own" else [_with_weight_of(encoder.word), _with_weight_of(encoder.position)]
        self.encoder = Encoder(sizes, tables)
        self.head = DrawingHead(self.encoder.word, sizes.norm_eps, sizes.init_std)

    def forward(
        self, packed: Packed, predicted_P: Tensor, target_P: Tensor, uniform_P: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What its head says of the blanks `predicted_P`, indices into T: see `DrawingHead`."""
        found: tuple[Tensor, Tensor] = self.head(self.encoder(packed)[predicted_P], target_P, uniform_P)
        return found

    def begin_as(self, encoder: Encoder) -> None:
        """Take the weights of the encoder's embeddings and lowest layers; the head keeps its own."""
        theirs = encoder.state_dict()
        for name, tensor in self.encoder.state_dict().items():
            tensor.copy_(theirs[name])


def _with_weight_of(table: nn.Embedding) -> nn.Embedding:
    """An embedding with the same parameter, in a module of its own."""
    with torch.device("meta"):  # nothing is drawn
        shared = nn.Embedding(table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx)
    shared.weight = table.weight
    return shared
