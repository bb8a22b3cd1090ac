"""Masked-LM perplexity per language on token files: masks at the training's rate and a fixed seed, so that runs compare.

Knows token files, an encoder and its masked-LM head; the batches are made as in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.data.batch import View
from pipeline.data.training_data import TrainingData
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.data.views.masking import MASK_RATE
from pipeline.model.encoder import Encoder
from pipeline.model.heads import MaskedLMHead
from pipeline.weights.pretrained import made_with

SEED = 1
BLOCK_TOKENS = 512
BATCH = 8


@dataclass
class Perplexity:
    """exp of the mean cross-entropy of the predicted tokens of one language."""

    language: str
    blocks: int
    predicted_tokens: int
    loss: float
    accuracy: float
    seed: int = SEED
    mask_rate: float = MASK_RATE

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def as_json(self) -> dict[str, Any]:
        return {"kind": "perplexity", **asdict(self), "perplexity": self.perplexity}


@torch.no_grad()
def evaluate_perplexity(
    data_dir: Path,
    encoder: Encoder,
    head: MaskedLMHead,
    tokenizer: Tokenizer,
    blocks: int = 256,
    progress: Callable[[Sequence[int]], Iterator[int]] = iter,
) -> list[Perplexity]:
    """The first `blocks` blocks of every language of a DATA_DIR, masked as validation masks them.

    Raises:
        ValueError: the folder has no monolingual data, or was made with another tokenizer than the model's.
    """
    manifest = Manifest.load(data_dir)
    if not made_with(manifest, tokenizer):
        raise ValueError(f"{data_dir}: made with another tokenizer than the model's; binarize it with the model's")
    limit = min(BLOCK_TOKENS, encoder.config.longest)
    data = TrainingData(manifest, [View("mono", MaskedTokens.name)], alpha=1.0, seed=SEED, limits={"mono": limit})
    stream = data.streams["mono"]
    device = next(encoder.parameters()).device
    results = []
    for language in progress(range(len(stream.names))):
        count = min(blocks, stream.counts[language])
        loss, correct, predicted = 0.0, 0, 0
        for first in range(0, count, BATCH):
            batch = data.head("mono", language, np.arange(first, min(first + BATCH, count))).to(device)
            masked = batch["mono"].view(MaskedTokens)
            summed, right = head(encoder(masked.packed)[masked.predicted_P], masked.target_ids_P)
            loss, correct, predicted = loss + float(summed), correct + int(right), predicted + len(masked.predicted_P)
        share = max(predicted, 1)
        results.append(Perplexity(stream.names[language], count, predicted, loss / share, correct / share))
    return results
