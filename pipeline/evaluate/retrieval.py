"""Sentence retrieval: whether the nearest sentence of the other language, by cosine of mean hidden states, is the translation.

Knows sentences, a tokenizer and something that gives hidden states; nothing of files or training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.tokenizers.template import Template
from pipeline.align.word_alignment import HiddenStates
from pipeline.data.packing import pack
from pipeline.texts.sentence_files import Sentences

POOLING = "mean over all tokens of the sentence, <s> and </s> among them; cosine"
"""`<s>` and `</s>`, or what other models have for them."""
ROWS_AT_ONCE = 1024
"""Sentences whose similarities to all of the other side are in memory at once."""


class SentenceEncoder(Protocol):
    """What is asked of a tokenizer: the ids of a sentence, without special tokens, and those around it."""

    @property
    def template(self) -> Template: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass
class Retrieval:
    """Accuracy of the nearest neighbour per layer (0: embeddings), in both directions."""

    languages: str
    sentences: int
    forward: list[float]
    """From the first language to the second."""
    backward: list[float]
    cut: int
    """Sentences longer than the model's positions, cut there."""

    @property
    def mean(self) -> list[float]:
        """Per layer, over both directions."""
        return [(a + b) / 2 for a, b in zip(self.forward, self.backward, strict=True)]

    @property
    def best_layer(self) -> int:
        return max(range(len(self.forward)), key=lambda layer: (self.mean[layer], -layer))

    def as_json(self) -> dict[str, Any]:
        return {"kind": "retrieval", **asdict(self), "best_layer": self.best_layer, "pooling": POOLING}


class SentencePooler:
    """Sentence vectors of every layer.

    Args:
        tokenizer, hidden_states: as for `WordAligner`.
        longest: tokens of a sentence, special tokens included; longer ones are cut and counted in `cut`.
    """

    def __init__(
        self, tokenizer: SentenceEncoder, hidden_states: HiddenStates, longest: int = 512, batch_tokens: int = 4096
    ) -> None:
        self.cut = 0
        self._tokenizer, self._hidden_states = tokenizer, hidden_states
        self._longest, self._batch_tokens = longest, batch_tokens

    @torch.no_grad()
    def vectors(self, sentences: Sequence[str]) -> list[Tensor]:
        """For every layer the sentences' mean hidden states, fp32 [sentences, D], of length 1."""
        frame = self._tokenizer.template.alone
        most = self._longest - frame.added
        own = [self._tokenizer.encode(sentence) for sentence in sentences]
        self.cut += sum(len(of_one) > most for of_one in own)
        ids = [frame.around(of_one[:most]) for of_one in own]
        layers: list[Tensor] = []
        for batch in self._batches(ids):
            packed = pack([ids[i] for i in batch])
            length_S = torch.as_tensor(packed.offsets_S1).diff()
            for layer, hidden_TD in enumerate(self._hidden_states(packed)):
                mean_SD = torch.segment_reduce(hidden_TD.float(), "mean", lengths=length_S.to(hidden_TD.device))
                if len(layers) <= layer:
                    layers.append(torch.empty(len(ids), hidden_TD.shape[1]))
                layers[layer][batch] = F.normalize(mean_SD, dim=1).cpu()
        return layers

    def _batches(self, ids: list[list[int]]) -> Iterator[list[int]]:
        batch: list[int] = []
        tokens = 0
        for index in sorted(range(len(ids)), key=lambda i: len(ids[i])):
            if batch and tokens + len(ids[index]) > self._batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += len(ids[index])
        if batch:
            yield batch


def accuracy(query_QD: Tensor, key_QD: Tensor) -> float:
    """Share of queries whose nearest key is the one at their own place; among equals the first key counts."""
    right = 0
    for first in range(0, len(query_QD), ROWS_AT_ONCE):
        nearest = (query_QD[first : first + ROWS_AT_ONCE] @ key_QD.T).argmax(dim=1)
        right += int((nearest == torch.arange(first, first + len(nearest))).sum())
    return right / len(query_QD)


def evaluate_retrieval(
    pairs: Sequence[Sentences],
    pooler: SentencePooler,
    progress: Callable[[Sequence[Sentences]], Iterator[Sentences]] = iter,
) -> list[Retrieval]:
    """Accuracy at 1 of every pair, layer and direction; a pivot's sentences are encoded once."""
    results: list[Retrieval] = []
    pivot: tuple[Path, list[Tensor], int] | None = None
    for pair in progress(pairs):
        first, second = pair.read()
        if pivot is None or pivot[0] != pair.paths[0]:
            pooler.cut = 0
            pivot = pair.paths[0], pooler.vectors(first), pooler.cut
        pooler.cut = 0
        others = pooler.vectors(second)
        both = list(zip(pivot[1], others, strict=True))
        forward, backward = [accuracy(a, b) for a, b in both], [accuracy(b, a) for a, b in both]
        results.append(Retrieval(pair.name, len(first), forward, backward, pivot[2] + pooler.cut))
    return results
