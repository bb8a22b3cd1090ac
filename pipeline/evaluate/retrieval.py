"""Sentence retrieval: whether the nearest sentence of the other language, by cosine or margin, is the translation.

Knows sentences, a tokenizer and something that gives hidden states; nothing of files or training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.tokenizers.template import Template
from pipeline.align.word_alignment import HiddenStates
from pipeline.data.packing import Packed, pack
from pipeline.evaluate.margin import best_by_margin, nearest
from pipeline.texts.sentence_files import Sentences

Pooling = Literal["mean", "first"]
Score = Literal["cosine", "margin"]
POOLINGS: dict[Pooling, str] = {
    "mean": "mean over all tokens of the sentence, <s> and </s> among them",
    "first": "the first token, <s>",
}
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
    score: Score = "cosine"

    @property
    def mean(self) -> list[float]:
        """Per layer, over both directions."""
        return [(a + b) / 2 for a, b in zip(self.forward, self.backward, strict=True)]

    @property
    def best_layer(self) -> int:
        return max(range(len(self.forward)), key=lambda layer: (self.mean[layer], -layer))

    def as_json(self) -> dict[str, Any]:
        how = f"{POOLINGS['mean']}; {self.score}"
        return {"kind": "retrieval", **asdict(self), "best_layer": self.best_layer, "pooling": how}


class SentencePooler:
    """Sentence vectors of every layer that `hidden_states` gives.

    Args:
        tokenizer, hidden_states: as for `WordAligner`.
        longest: tokens of a sentence, special tokens included; longer ones are cut and counted in `cut`.
        pooling: what of a sentence's hidden states is its vector.
        projection_DD: what the vector is projected with, as the weight of an `nn.Linear`; None: it is taken as it is.
    """

    def __init__(
        self,
        tokenizer: SentenceEncoder,
        hidden_states: HiddenStates,
        longest: int = 512,
        batch_tokens: int = 4096,
        pooling: Pooling = "mean",
        projection_DD: Tensor | None = None,
    ) -> None:
        self.cut = 0
        self._tokenizer, self._hidden_states = tokenizer, hidden_states
        self._longest, self._batch_tokens = longest, batch_tokens
        self._pooling, self._projection_DD = pooling, projection_DD

    @torch.no_grad()
    def vectors(self, sentences: Sequence[str]) -> list[Tensor]:
        """For every layer the sentences' pooled hidden states, fp32 [sentences, D] on the host, of length 1."""
        frame = self._tokenizer.template.alone
        most = self._longest - frame.added
        own = [self._tokenizer.encode(sentence) for sentence in sentences]
        self.cut += sum(len(of_one) > most for of_one in own)
        ids = [frame.around(of_one[:most]) for of_one in own]
        layers: list[Tensor] = []
        for batch in self._batches(ids):
            packed = pack([ids[i] for i in batch])
            for layer, hidden_TD in enumerate(self._hidden_states(packed)):
                if len(layers) <= layer:
                    layers.append(torch.empty(len(ids), hidden_TD.shape[1]))
                layers[layer][batch] = F.normalize(self._pooled(packed, hidden_TD), dim=1).cpu()
        return layers

    def _pooled(self, packed: Packed, hidden_TD: Tensor) -> Tensor:
        """fp32 [S, D], projected where that is asked for."""
        offsets_S1 = torch.as_tensor(packed.offsets_S1, device=hidden_TD.device)
        if self._pooling == "first":
            pooled_SD = hidden_TD[offsets_S1[:-1]].float()
        else:
            pooled_SD = torch.segment_reduce(hidden_TD.float(), "mean", lengths=offsets_S1.diff())
        if self._projection_DD is None:
            return pooled_SD
        return F.linear(pooled_SD, self._projection_DD.to(hidden_TD.device))

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


def nearest_keys(query_QD: Tensor, key_KD: Tensor) -> Tensor:
    """The most similar key of each query, int64 [Q]; among equals the first."""
    return torch.cat([(query_BD @ key_KD.T).argmax(dim=1) for query_BD in query_QD.split(ROWS_AT_ONCE)])


def both_ways(first_SD: Tensor, second_SD: Tensor, score: Score = "cosine") -> tuple[Tensor, Tensor]:
    """The best sentence of the second side for each of the first, int64 [S], and of the first for each of the second.

    score: `cosine`, or `margin`, the best of the `NEIGHBOURS` nearest by their ratio margin.
    """
    if score == "cosine":
        return nearest_keys(first_SD, second_SD), nearest_keys(second_SD, first_SD)
    of_first, of_second = nearest(first_SD, second_SD), nearest(second_SD, first_SD)
    return best_by_margin(of_first, of_second)[0], best_by_margin(of_second, of_first)[0]


def share_found(best_S: Tensor) -> float:
    """Share of sentences for which the best is the one at their own place."""
    return int((best_S == torch.arange(len(best_S))).sum()) / len(best_S)


@dataclass
class Matches:
    """What was found for each sentence of a pair of languages."""

    pair: Sentences
    by_layer: list[tuple[Tensor, Tensor]]
    """As `both_ways` gives them."""
    cut: int

    @property
    def sentences(self) -> int:
        return len(self.by_layer[0][0])


def match_pairs(pairs: Iterable[Sentences], pooler: SentencePooler, score: Score = "cosine") -> Iterator[Matches]:
    """What each sentence of every pair finds; a pivot's sentences are encoded once."""
    pivot: tuple[Path, list[Tensor], int] | None = None
    for pair in pairs:
        first, second = pair.read()
        if pivot is None or pivot[0] != pair.paths[0]:
            pooler.cut = 0
            pivot = pair.paths[0], pooler.vectors(first), pooler.cut
        pooler.cut = 0
        others = pooler.vectors(second)
        found = [both_ways(a, b, score) for a, b in zip(pivot[1], others, strict=True)]
        yield Matches(pair, found, pivot[2] + pooler.cut)


def evaluate_retrieval(
    pairs: Sequence[Sentences],
    pooler: SentencePooler,
    progress: Callable[[Sequence[Sentences]], Iterator[Sentences]] = iter,
    score: Score = "cosine",
) -> list[Retrieval]:
    """Accuracy at 1 of every pair, layer and direction; a pivot's sentences are encoded once."""
    results: list[Retrieval] = []
    for matches in match_pairs(progress(pairs), pooler, score):
        forward, backward = ([share_found(best) for best in way] for way in zip(*matches.by_layer, strict=True))
        results.append(Retrieval(matches.pair.name, matches.sentences, forward, backward, matches.cut, score))
    return results
