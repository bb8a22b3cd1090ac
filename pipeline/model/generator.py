"""The generator of replaced tokens: a few layers of the encoder's widths, and a masked-LM head that also draws words.

Knows encoders and heads; nothing of batches or of what its words are for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.packing import Packed
from pipeline.model.encoder import Encoder, with_weight_of
from pipeline.model.heads import DrawingHead

Embeddings = Literal["tied", "disentangled", "own"]
"""Words and positions in the generator: by the encoder's tables, which the losses of both move; by tables that the encoder's
differ from, and that only the generator's loss moves; by other tables."""
_DELTA = ".delta"
"""How the names end of what the encoder's tables differ by."""


class Disentangled(nn.Embedding):
    """What the encoder reads of a table that is the generator's: its rows, not moved from here, plus a difference of its own.

    Gradient-disentangled embedding sharing (DeBERTaV3: He, Gao & Chen, ICLR 2023). Without the generator the sum is a table as
    any other: `whole_tables`.
    """

    def __init__(self, table: nn.Embedding) -> None:
        with torch.device("meta"):  # nothing is drawn
            super().__init__(table.num_embeddings, table.embedding_dim, padding_idx=table.padding_idx)
        self.weight = table.weight
        self.delta = nn.Parameter(torch.zeros_like(table.weight))

    def forward(self, input: Tensor) -> Tensor:
        shared = F.embedding(input, self.weight.detach(), self.padding_idx)
        return shared + F.embedding(input, self.delta, self.padding_idx)


def disentangle(encoder: Encoder) -> None:
    """From now on the encoder reads its tables, which stay what the generator reads, as `Disentangled` does."""
    encoder.word, encoder.position = Disentangled(encoder.word), Disentangled(encoder.position)


def whole_tables(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's state with tables that are whole, and nothing beside them."""
    whole = {name: tensor for name, tensor in encoder.items() if not name.endswith(_DELTA)}
    for name, delta in encoder.items():
        if name.endswith(_DELTA):
            table = name.removesuffix(_DELTA) + ".weight"
            whole[table] = whole[table] + delta
    return whole


class Generator(nn.Module):
    """What predicts words behind blanks, and what stands there for the encoder to find out."""

    def __init__(self, encoder: Encoder, layers: int, embeddings: Embeddings) -> None:
        super().__init__()
        sizes = replace(encoder.config, layers=layers)
        tables = None if embeddings == "own" else [with_weight_of(encoder.word), with_weight_of(encoder.position)]
        self.encoder = Encoder(sizes, tables)
        self.head = DrawingHead(self.encoder.word, sizes.norm_eps, sizes.init_std)

    def forward(
        self, packed: Packed, predicted_P: Tensor, target_P: Tensor, uniform_P: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What its head says of the blanks `predicted_P`, indices into T: see `DrawingHead`."""
        found: tuple[Tensor, Tensor] = self.head(self.encoder(packed)[predicted_P], target_P, uniform_P=uniform_P)
        return found

    def begin_as(self, encoder: Encoder) -> None:
        """Take the weights of the encoder's embeddings and lowest layers; the head keeps its own."""
        theirs = whole_tables(encoder.state_dict())
        for name, tensor in self.encoder.state_dict().items():
            tensor.copy_(theirs[name])
