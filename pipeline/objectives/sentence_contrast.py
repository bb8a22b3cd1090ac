"""Sentence contrast: each sentence is to be nearer to its translation than to sentences of other pairs.

InfoXLM's XlCo (Chi et al., NAACL 2021): both sides are encoded apart. Keys are made by the trained encoder, with gradient, and
compared within the step (`OwnKeys`), or by a slow encoder (`slow_keys`). Neither depends on how a step is cut: what its ranks
and micro-steps make of it is put together before losses are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.data.batch import MicroBatch, View
from pipeline.data.packing import Packed
from pipeline.data.views.apart import Apart, ApartMasked
from pipeline.model.contrast import Candidates, Compared, info_nce, sentence_vectors
from pipeline.model.encoder import init_weights
from pipeline.model.flops import own_keys_flops
from pipeline.model.linear import Linear
from pipeline.objectives.base import Asked, Encode, Labels, LabelTensors, Loss, Modules, Objective, Parts, Trained
from pipeline.objectives.in_order import in_order, own_parts
from pipeline.settings.sentence_contrast import SentenceContrast as Settings
from pipeline.settings.sizes import EncoderConfig

STREAM = "contrast"
PROJECTION = "sentence_projection"
TEXTS = "text_B2"
"""A label: int64 [B, 2], hashes of both sides' texts."""
VECTORS = ("first_BD", "second_BD")
"""Labels: fp32 [B, D], vectors of the first and the second side."""
GRADIENTS = ("gradient_of_first_BD", "gradient_of_second_BD")
"""Labels of `OwnKeys`: the gradient of the whole step's loss by these vectors."""
Vectors = Mapping[int, Tensor]
"""fp32 [B, D], by side: 0 or 1."""


class SentenceContrast(Objective):
    """What is the same whoever makes the keys. A query counts as one masked token does, as in the released code."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name, self.settings = name, settings
        self._kind: type[Apart] = ApartMasked if settings.masked else Apart
        self.reads = (View(STREAM, self._kind.name),)
        self.queries = (0, 1) if settings.both_directions else (0,)
        """The sides whose sentences are queries; the other side's are their keys."""
        self.step_samples = 0
        """Samples of a whole step, once one is known."""

    def modules(self, parts: Parts) -> dict[str, Trained]:
        sizes = parts.encoder.config
        return (
            {PROJECTION: Trained(partial(_projection, sizes.hidden, sizes.init_std))}
            if self.settings.projection
            else {}
        )

    def count(self, batch: MicroBatch, labels: LabelTensors) -> Tensor:
        text_B2 = labels[TEXTS]
        return torch.full((), len(text_B2) * len(self.queries), device=text_B2.device)

    def report(self, sums: dict[str, float], count: float) -> dict[str, float]:
        means = {name: sums[name] / max(count, 1) for name in ("retrieved", "similarity", "negatives")}
        return {**super().report(sums, count), **means}

    def apart(self, batch: MicroBatch) -> Apart:
        return batch[STREAM].view(self._kind)

    def encoded(self, encode: Encode, modules: Modules, apart: Apart, sides: Sequence[int]) -> Vectors:
        """Vectors of these sides by the trained encoder."""
        matrix = modules.get(PROJECTION)
        return {
            side: self.vectors(encode(apart.sides[side], self.settings.layer), apart.sides[side], matrix)
            for side in sides
        }

    def vectors(self, hidden_TD: Tensor, packed: Packed, matrix: nn.Module | None) -> Tensor:
        """What is compared of each sequence, fp32 [B, D]."""
        vector_BD = sentence_vectors(hidden_TD, packed, self.settings.pooling)
        if matrix is not None:
            vector_BD = matrix(vector_BD.to(hidden_TD.dtype))
        return F.normalize(vector_BD.float(), dim=-1) if self.settings.similarity == "cosine" else vector_BD.float()

    def compared(
        self, queries: Vectors, keys: Vectors, text_B2: Tensor, candidates: Callable[[int], Sequence[Candidates]]
    ) -> Compared:
        """Every query against its key and the candidates that there are of its key's side; [B, directions] each."""
        found = [
            info_nce(queries[side], keys[1 - side], text_B2, candidates(1 - side), self.settings.temperature)
            for side in self.queries
        ]
        return Compared(*(torch.stack(of_directions, dim=1) for of_directions in zip(*found, strict=True)))


class OwnKeys(SentenceContrast):
    """The trained encoder makes queries and keys, and each sample's other keys of the step are the negatives."""

    def asks(self, work: Literal["label", "losses"], batch: MicroBatch) -> Sequence[Asked]:
        return [Asked(side, self.settings.layer) for side in self.apart(batch).sides]

    def label(self, encode: Encode, modules: Modules, batch: MicroBatch) -> Labels:
        apart = self.apart(batch)
        vectors = self.encoded(encode, modules, apart, (0, 1))
        return Labels({TEXTS: apart.text_B2, **{VECTORS[side]: vector for side, vector in vectors.items()}}, {})

    def exchange(self, labels: Sequence[LabelTensors]) -> Sequence[LabelTensors]:
        """Adds what comparing the whole step's vectors gives for this rank's: what was found, and the loss's gradient.

        So each micro-step has the exact gradient of a loss that it could not compute (Gao et al., RepL4NLP 2021). With dropout
        it is taken where the vectors lie without.
        """
        text_B2 = in_order([label[TEXTS] for label in labels])
        with torch.enable_grad():
            vectors = {
                side: in_order([label[name] for label in labels]).requires_grad_() for side, name in enumerate(VECTORS)
            }
            found = self._against_each_other(vectors, text_B2)
            gradients = torch.autograd.grad(found.loss_BQ.sum(), list(vectors.values()))
        self.step_samples = len(text_B2)
        of_step = {**dict(zip(GRADIENTS, gradients, strict=True)), **found._asdict()}
        own = {name: own_parts(tensor.detach(), len(labels)) for name, tensor in of_step.items()}
        return [{**label, **{name: parts[micro] for name, parts in own.items()}} for micro, label in enumerate(labels)]

    def loss(self, encode: Encode, modules: Modules, batch: MicroBatch, labels: LabelTensors) -> Loss:
        vectors = self.encoded(encode, modules, self.apart(batch), (0, 1))
        if GRADIENTS[0] not in labels:  # nothing was exchanged: the batch is all there is, as in validation
            return loss_of(self._against_each_other(vectors, labels[TEXTS]))
        found = loss_of(Compared(*(labels[name] for name in Compared._fields)))
        linear = torch.stack([(labels[name] * vectors[side]).sum() for side, name in enumerate(GRADIENTS)]).sum()
        return Loss(found.total + (linear - linear.detach()), found.metrics)

    def flops(self, sizes: EncoderConfig, batch: MicroBatch) -> float:
        samples = len(self.apart(batch).text_B2)
        of_step = self.step_samples or samples
        return own_keys_flops(sizes, samples, of_step, len(self.queries), self.settings.projection)

    def _against_each_other(self, vectors: Vectors, text_B2: Tensor) -> Compared:
        return self.compared(vectors, vectors, text_B2, lambda side: [Candidates(vectors[side], text_B2[:, side])])


def loss_of(found: Compared) -> Loss:
    """The sums of what was found, of queries that count alike."""
    metrics = {"retrieved": found.found_BQ, "similarity": found.similarity_BQ, "negatives": found.negatives_BQ}
    return Loss(found.loss_BQ.sum(), {name: values_BQ.detach().sum() for name, values_BQ in metrics.items()})


def _projection(width: int, init_std: float) -> nn.Module:
    matrix = Linear(width, width, bias=False)
    init_weights(matrix, init_std)
    return matrix
