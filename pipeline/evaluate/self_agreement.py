"""How far a model's links agree with themselves: what can be told of an aligner without gold. It is no error rate.

Knows an encoder and token files. A model that is sure of what is wrong agrees with itself as well as one that is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import View
from pipeline.data.training_data import TrainingData
from pipeline.data.views.sides import Sides
from pipeline.model.encoder import Encoder
from sinkhorn_align import align
from sinkhorn_align.simalign import ARGMAX

TOGETHER = 16  # pairs


@dataclass
class SelfAgreement:
    """Shares by layer (0: embeddings), each the Dice coefficient of two sets of links between subwords."""

    pairs: int
    directions: list[float]
    """Each source token's most similar target token, and each target token's most similar source token."""
    layers: list[float]
    """The links on which the two directions agree, here and at the next lower and higher layers: the mean of these two."""


@torch.no_grad()
def self_agreement(encoder: Encoder, data_dir: Path, pairs: int, side_tokens: int) -> SelfAgreement:
    """Measure over the first so many pairs of each language pair of token files, their sides encoded apart.

    side_tokens: longer sides are cut.
    """
    manifest = Manifest.load(data_dir)
    views = [View("pairs", Sides.name)]
    data = TrainingData(manifest, views, alpha=1.0, seed=0, limits={"pairs": side_tokens})
    stream = data.streams["pairs"]
    layers = encoder.config.layers
    links, common = np.zeros(layers + 1), np.zeros(layers)
    tokens = measured = 0
    for language, count in enumerate(stream.counts):
        for first in range(0, min(pairs, count), TOGETHER):
            indices = np.arange(first, min(first + TOGETHER, pairs, count))
            sides = data.head("pairs", language, indices)["pairs"].view(Sides)
            packed = sides.packed.to(encoder.word.weight.device)
            partners = [align(h, sides.spans, ARGMAX).partner_T.cpu() for h in encoder.hidden_states(packed)]
            links += [int((partner_T >= 0).sum()) for partner_T in partners]
            both = pairwise(partners)
            common += [int(((lower_T == upper_T) & (lower_T >= 0)).sum()) for lower_T, upper_T in both]
            tokens += int(sides.length_C.sum())
            measured += len(indices)
    # Links are counted at both of their ends, as tokens are.
    to_next = 2 * common / np.maximum(links[:-1] + links[1:], 1)
    neighbours = np.concatenate([to_next[:1], (to_next[:-1] + to_next[1:]) / 2, to_next[-1:]])
    return SelfAgreement(measured, (links / max(tokens, 1)).tolist(), neighbours.tolist())
