"""What `model.init` may name, behind one entry: a Hugging Face folder, or a fairseq checkpoint or its folder.

Knows which reader a path is for; the readers know their formats.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from pipeline import hugging_face
from pipeline.fairseq_init import fairseq_file, read_fairseq
from pipeline.model import EncoderConfig


def read_pretrained(init: Path, dropout: float) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Sizes of a pretrained model, and its fp32 tensors named as in `XLMRobertaForMaskedLM`; ValueError of one line."""
    file = fairseq_file(init)
    if file is not None:
        return read_fairseq(file, dropout)
    return hugging_face.read_config(init, dropout), hugging_face.read_state(init)


def read_sizes(init: Path, dropout: float) -> EncoderConfig:
    """Sizes alone, for which a Hugging Face folder's weights are not read."""
    file = fairseq_file(init)
    return hugging_face.read_config(init, dropout) if file is None else read_fairseq(file, dropout)[0]
