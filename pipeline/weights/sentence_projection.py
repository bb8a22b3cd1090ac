"""The projection of sentence vectors, which lies beside a model: what sentence contrast (InfoXLM's XlCo) was trained through.

No Hugging Face class has a place for it, so an exported folder holds it as a file of its own: one tensor `weight`, fp32 [D, D]
as an `nn.Linear` holds it, and as metadata the layer and the pooling that it is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.weights.hub import SENTENCE_PROJECTION

HEAD = "sentence_projection"
"""Its name among a model's heads, and so in its checkpoints."""
WEIGHT = "weight"
TENSOR = f"{HEAD}.{WEIGHT}"
"""Its name among a model's tensors."""
VectorPooling = Literal["first", "mean"]


@dataclass(frozen=True)
class ProjectedVectors:
    """Which vectors of sentences a projection was trained on."""

    layer: int
    """As Hugging Face counts, 0: embeddings."""
    pooling: VectorPooling

    @property
    def words(self) -> str:
        """For people."""
        return f"{'first token' if self.pooling == 'first' else 'mean of all tokens'}, layer {self.layer}"


@dataclass(frozen=True)
class SentenceProjection:
    """A bias-free linear map of sentence vectors, and the vectors that it is for."""

    weight_DD: Tensor
    """fp32, as an `nn.Linear` holds it: a vector is multiplied with its transpose."""
    takes: ProjectedVectors


def write_projection(projection: SentenceProjection, folder: Path) -> None:
    """Write `SENTENCE_PROJECTION` into a folder."""
    metadata = {"format": "pt", "layer": str(projection.takes.layer), "pooling": projection.takes.pooling}
    save_file({WEIGHT: projection.weight_DD.contiguous()}, folder / SENTENCE_PROJECTION, metadata=metadata)


def read_projection(folder: Path, width: int, layers: int) -> SentenceProjection | None:
    """The projection that lies in a folder with a model of this width and depth; None: there is none.

    Raises:
        ValueError: the file is damaged, or is another model's; one line that names it.
    """
    path = folder / SENTENCE_PROJECTION
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weight_DD = file.get_tensor(WEIGHT)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]}); copy it again") from None
    if list(weight_DD.shape) != [width, width]:
        raise ValueError(f"{path}: {WEIGHT} is {list(weight_DD.shape)}, the model's width is {width}; copy it again")
    layer, pooling = metadata.get("layer"), metadata.get("pooling")
    if layer is None or layer not in map(str, range(layers + 1)):
        raise ValueError(f"{path}: its metadata has the layer {layer!r}, the model {layers} layers; export it again")
    if pooling not in get_args(VectorPooling):
        raise ValueError(f"{path}: its metadata has the pooling {pooling!r}, neither first nor mean; export it again")
    takes = ProjectedVectors(int(layer), "first" if pooling == "first" else "mean")
    return SentenceProjection(weight_DD.to(torch.float32), takes)


@torch.no_grad()
def load_projection(head: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Copy the projection among a model's tensors into a head that is a linear layer without bias.

    ValueError where it does not fit.
    """
    own = head.get_parameter(WEIGHT)
    if own.shape != state[TENSOR].shape:
        raise ValueError(f"{source}: {TENSOR} is {list(state[TENSOR].shape)}, {list(own.shape)} is wanted")
    own.copy_(state[TENSOR])
