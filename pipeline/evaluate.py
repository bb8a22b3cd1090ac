"""AER of every layer of a model against gold alignments: the table by which an alignment layer is chosen.

Knows a Hugging Face folder with its tokenizer, and gold folders; nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table

from data_prep.tokenizer import Tokenizer
from pipeline.gold import AlignmentScore, Gold, score_links
from pipeline.loading import longest_side
from pipeline.model import Encoder
from pipeline.packing import Packed
from pipeline.word_alignment import AlignmentReport, WordAligner
from sinkhorn_align import AlignmentSettings


@dataclass
class Evaluation:
    """Scores per layer (0: embeddings) of one gold folder, and what was cut or skipped on the way."""

    languages: str
    pairs: int
    layers: list[AlignmentScore]
    links_past_the_end: int
    report: AlignmentReport

    @property
    def best_layer(self) -> int:
        return min(range(len(self.layers)), key=lambda layer: self.layers[layer].aer)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "best_layer": self.best_layer}


def evaluate(encoder: Encoder, tokenizer: Tokenizer, gold: Gold, settings: AlignmentSettings) -> Evaluation:
    """Align the gold folder's pairs with every layer, the two sides encoded together, and score each layer."""

    def hidden_states(packed: Packed) -> Sequence[torch.Tensor]:
        return encoder.hidden_states(packed)

    aligner = WordAligner(tokenizer, hidden_states, settings, longest_side=longest_side(encoder))
    links_by_pair = list(aligner.align(zip(gold.source, gold.target, strict=True)))
    layers = [
        score_links([layers[layer] for layers in links_by_pair], gold) for layer in range(encoder.config.layers + 1)
    ]
    languages = f"{gold.source_language}-{gold.target_language}"
    return Evaluation(languages, len(gold), layers, gold.links_past_the_end, aligner.report)


def table(evaluations: Sequence[Evaluation]) -> Table:
    """AER per layer, a column per gold folder, the best of each marked."""
    drawn = Table(title="AER by layer (lower is better)")
    drawn.add_column("layer", justify="right")
    for evaluation in evaluations:
        drawn.add_column(evaluation.languages, justify="right")
    for layer in range(len(evaluations[0].layers)):
        marks = [f"{e.layers[layer].aer:.3f}{' *' if layer == e.best_layer else '  '}" for e in evaluations]
        drawn.add_row(str(layer), *marks)
    return drawn
