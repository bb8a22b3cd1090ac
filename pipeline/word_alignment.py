"""From words to word links: tokenised pairs in, the links of every word out, for one layer or many.

Knows a tokenizer and something that gives hidden states; nothing of files, checkpoints or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.tokenizer import BOS, EOS
from pipeline.packing import Packed, pack
from sinkhorn_align import AlignmentSettings, PairStatus, align

WordPair = tuple[Sequence[str], Sequence[str]]
WordLinks = list[tuple[int, int]]
HiddenStates = Callable[[Packed], Sequence[Tensor]]

WINDOW = 2048
"""Pairs that are read ahead and sorted by length, so that a batch holds pairs of like lengths."""


class WordEncoder(Protocol):
    """What is asked of a tokenizer: ids of all words, each encoded by itself, and for each id its word's index."""

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]: ...


@dataclass
class AlignmentReport:
    """What happened to the pairs so far. A pair without links is never silent: it is in one of these counts."""

    pairs: int = 0
    empty_pairs: int = 0
    """Pairs with a side without words (or cut to none): no links."""
    cut_sides: int = 0
    """Sides longer than the longest side, cut after a whole word."""
    cut_words: int = 0
    """Words cut off from them, which have no links."""
    non_finite_pairs: int = 0
    """Pairs with a non-finite similarity in some layer: no links there."""


@dataclass(frozen=True)
class _Side:
    ids: list[int]
    word_of_id: list[int]


class WordAligner:
    """Aligns the words of pairs: two words are linked when any of their subwords are.

    Args:
        tokenizer: encodes words, see `WordEncoder`.
        hidden_states: gives hidden states [T, D] of a packed batch (made on the CPU), a tensor for each layer wanted.
        settings: as in pretraining.
        longest_side: tokens of a side; longer ones are cut to whole words and counted in `report`.
        batch_tokens: tokens of a batch, special tokens included; bounds memory, not results.
    """

    def __init__(
        self,
        tokenizer: WordEncoder,
        hidden_states: HiddenStates,
        settings: AlignmentSettings | None = None,
        *,
        longest_side: int = 254,
        batch_tokens: int = 4096,
    ) -> None:
        self.report = AlignmentReport()
        self._tokenizer = tokenizer
        self._hidden_states = hidden_states
        self._settings = settings or AlignmentSettings()
        self._longest_side = longest_side
        self._batch_tokens = batch_tokens

    def align(self, pairs: Iterable[WordPair]) -> Iterator[list[WordLinks]]:
        """For every pair in order: for each layer its links (source word, target word) from 0, sorted."""
        stream = iter(pairs)
        while window := list(islice(stream, WINDOW)):
            sides = [(self._encode(source), self._encode(target)) for source, target in window]
            self.report.pairs += len(sides)
            self.report.empty_pairs += sum(not source.ids or not target.ids for source, target in sides)
            links: list[list[WordLinks]] = [[] for _ in sides]
            for batch in self._batches(sides):
                for index, layers in zip(batch, self._align_batch([sides[i] for i in batch]), strict=True):
                    links[index] = layers
            yield from links

    def _encode(self, words: Sequence[str]) -> _Side:
        ids, word_of_id = self._tokenizer.encode_words(words)
        if len(ids) <= self._longest_side:
            return _Side(ids, word_of_id)
        # The word that crosses the border goes whole.
        kept_words = word_of_id[self._longest_side]
        kept = word_of_id.index(kept_words)
        self.report.cut_sides += 1
        self.report.cut_words += len(words) - kept_words
        return _Side(ids[:kept], word_of_id[:kept])

    def _batches(self, sides: list[tuple[_Side, _Side]]) -> Iterator[list[int]]:
        """Indices of pairs of like lengths, at most `batch_tokens` tokens together (or a single pair)."""
        length = [len(source.ids) + len(target.ids) + 3 for source, target in sides]
        batch: list[int] = []
        tokens = 0
        for index in sorted(range(len(sides)), key=length.__getitem__):
            if batch and tokens + length[index] > self._batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += length[index]
        if batch:
            yield batch

    @torch.no_grad()
    def _align_batch(self, sides: list[tuple[_Side, _Side]]) -> list[list[WordLinks]]:
        """For every pair, for each layer, its word links."""
        packed = pack([[BOS, *source.ids, EOS, *target.ids, EOS] for source, target in sides])
        first_B = torch.as_tensor(packed.offsets_S1[:-1])
        source_length_B = torch.tensor([len(source.ids) for source, _ in sides])
        target_length_B = torch.tensor([len(target.ids) for _, target in sides])
        source_start_B, target_start_B = first_B + 1, first_B + 2 + source_length_B
        starts_and_length = (source_start_B, source_length_B, target_start_B)

        non_finite_B = torch.zeros(len(sides), dtype=torch.bool)
        layers = []
        for hidden_TD in self._hidden_states(packed):
            found = align(hidden_TD, *starts_and_length, target_length_B, self._settings)
            non_finite_B |= found.status_B.cpu() == int(PairStatus.NON_FINITE)
            layers.append(_word_links(found.local(*starts_and_length).cpu().numpy(), sides))
        self.report.non_finite_pairs += int(non_finite_B.sum())
        return [list(of_layers) for of_layers in zip(*layers, strict=True)]


def _word_links(subword_links_L3: NDArray[np.int64], sides: list[tuple[_Side, _Side]]) -> list[WordLinks]:
    """The union over subwords: (pair, source token, target token) triples as sorted word links of every pair."""
    pair_L, source_L, target_L = subword_links_L3.T
    word_links_L3 = np.stack(
        [
            pair_L,
            _words([source.word_of_id for source, _ in sides], pair_L, source_L),
            _words([target.word_of_id for _, target in sides], pair_L, target_L),
        ],
        axis=1,
    )
    word_links_L3 = np.unique(word_links_L3, axis=0)
    ends_B = np.searchsorted(word_links_L3[:, 0], np.arange(1, len(sides)))
    return [[(i, j) for _, i, j in of_pair.tolist()] for of_pair in np.split(word_links_L3, ends_B)]


def _words(word_of_id: list[list[int]], pair_L: NDArray[np.int64], token_L: NDArray[np.int64]) -> NDArray[np.int64]:
    """The word of each (pair, token of that side)."""
    lengths_B = np.array([len(words) for words in word_of_id])
    words_T = np.concatenate([np.asarray(words, dtype=np.int64) for words in word_of_id])
    return words_T[(np.cumsum(lengths_B) - lengths_B)[pair_L] + token_L]
