"""From words to word links: tokenised pairs in, the links of every word out, for one layer or many.

Knows a tokenizer and something that gives hidden states; nothing of files, checkpoints or scores against gold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.tokenizer import BOS, EOS
from pipeline.packing import Packed, pack
from pipeline.use.link_methods import Method, Spans, TokenLinks, check_method, find_links
from sinkhorn_align import AlignmentSettings

WordPair = tuple[Sequence[str], Sequence[str]]
WordLinks = list[tuple[int, int]]
ScoredLinks = dict[tuple[int, int], float]
"""Links (source word, target word) from 0, sorted, and of each the largest cosine of its subword links."""
HiddenStates = Callable[[Packed], Sequence[Tensor]]
Encoding = Literal["joint", "separate"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

READ_AHEAD = 4096
"""Pairs that are read ahead and sorted by length, so that a batch holds pairs of like lengths."""
TOKENS_AHEAD = 1 << 18
"""Tokens that are read ahead at most (or one pair), so that memory stays flat where lines are long."""
WINDOW = 128
"""Tokens of a window of a long pair. Forty sentences as one pair had an AER of 0.34, 0.25 and 0.18 with 254, 128 and 64
tokens where they have 0.10 alone (en-nl, the small real checkpoint)."""
BATCH_TOKENS = 4096
"""Of a batch, right for CPUs: larger ones leave the cache, smaller ones spend more time on calls."""
KNOWN_WORDS = 1 << 17
"""Words whose pieces are remembered; frequent words make up most of a text."""


class WordEncoder(Protocol):
    """What is asked of a tokenizer: ids of all words, each encoded by itself, and for each id its word's index."""

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]: ...


@dataclass
class AlignmentReport:
    """What happened to the pairs so far. A pair that was not aligned as it stands is never silent: it is counted here."""

    pairs: int = 0
    empty_pairs: int = 0
    """Pairs with a side without words: no links."""
    long_pairs: int = 0
    """Pairs with a side longer than the longest side, aligned by windows."""
    windows: int = 0
    """The windows of those pairs."""
    non_finite_pairs: int = 0
    """Pairs with a non-finite similarity in some layer: no links there (of a long pair, in some window)."""


@dataclass(frozen=True)
class _Side:
    ids: list[int]
    word_of_id: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class _Part:
    """What is encoded at once: a pair, or a window of a long one."""

    pair: int  # index into the pairs read ahead
    source: _Side
    target: _Side
    tokens: int
    owned_source: tuple[int, int] | None = None  # of a window: links of these tokens count, of one side or of the other
    owned_target: tuple[int, int] | None = None


class WordAligner:
    """Aligns the words of pairs: two words are linked when any of their subwords are.

    Where a side is longer than `longest_side`, it is cut into windows of `window` tokens, each overlapping the next by half
    or more, and its translation into as many, at the same relative places: translations run alongside each other. A
    link counts if its token of the longer side is nearer to this window's middle than to any other's.

    Args:
        tokenizer: encodes words, see `WordEncoder`.
        hidden_states: gives hidden states [T, D] of a packed batch (made on the CPU), a tensor for each layer wanted.
        settings: of the method `ot-filter`, as in pretraining.
        method: how links are found, see `link_methods.find_links`.
        encoding: `joint` encodes a pair as pretraining does, `<s> source </s> target </s>`; `separate` each side alone.
        longest_side: tokens of a side that is aligned whole.
        window: tokens of a window, at most `longest_side`. Small ones align better, large ones bear more that one side runs
            ahead of the other: a quarter of a window is always seen.
        batch_tokens: tokens of a batch, special tokens included; bounds memory, not results.

    Raises:
        ValueError: an unknown method or encoding, or settings that the method does not read.
    """

    def __init__(
        self,
        tokenizer: WordEncoder,
        hidden_states: HiddenStates,
        settings: AlignmentSettings | None = None,
        *,
        method: Method = "ot-filter",
        encoding: Encoding = "joint",
        longest_side: int = 254,
        window: int = WINDOW,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        check_method(method, settings)
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding {encoding!r}: choose {' or '.join(ENCODINGS)}")
        self.report = AlignmentReport()
        self._tokenizer = tokenizer
        self._hidden_states = hidden_states
        self._settings = settings or AlignmentSettings()
        self._method, self._joint = method, encoding == "joint"
        if window < 1:
            raise ValueError(f"window {window}: it must have at least 1 token; {WINDOW} is a good number")
        self._longest_side, self._window = longest_side, min(window, longest_side)
        self._batch_tokens = batch_tokens
        self._pieces: dict[str, list[int]] = {}

    def align(self, pairs: Iterable[WordPair]) -> Iterator[list[WordLinks]]:
        """For every pair in order: for each layer its links (source word, target word) from 0, sorted."""
        return ([list(links) for links in layers] for layers in self.links_by_layer(pairs, scored=False))

    def links_by_layer(self, pairs: Iterable[WordPair], scored: bool) -> Iterator[list[ScoredLinks]]:
        """`align` with a score for every link, 0 unless `scored`.

        A ValueError or OSError of the pairs is raised when all pairs before it have been aligned.
        """
        stream = iter(pairs)
        while True:
            ahead, problem = self._read_ahead(stream)
            if ahead:
                yield from self._align_ahead(ahead, scored)
            if problem is not None:
                raise problem
            if not ahead:
                return

    @torch.no_grad()
    def similarities(self, pair: WordPair) -> Tensor:
        """For the first layer, the largest cosine of two subwords' hidden states for every two words; fp32 [M, N].

        Raises:
            ValueError: a side has no words, or more tokens than the longest side.
        """
        sides = self._encode(pair[0]), self._encode(pair[1])
        for name, side in zip(("source", "target"), sides, strict=True):
            if not side.ids:
                raise ValueError(f"the {name} has no words; give some")
            if len(side) > self._longest_side:
                raise ValueError(
                    f"the {name} has {len(side)} tokens, at most {self._longest_side} can be shown; shorten it"
                )
        packed, spans = self._pack([_Part(0, *sides, self._tokens(*sides))])
        hidden_TD = self._hidden_states(packed)[0].float().cpu()
        source_MD, target_ND = (
            F.normalize(hidden_TD[int(start) : int(start) + int(length)], dim=1)
            for start, length in ((spans[0], spans[1]), (spans[2], spans[3]))
        )
        words = [torch.tensor(side.word_of_id) for side in sides]
        shape = (len(pair[0]), len(pair[1]))
        place_L = (words[0][:, None] * shape[1] + words[1]).flatten()
        largest = torch.full((shape[0] * shape[1],), -1.0)
        return largest.scatter_reduce(0, place_L, (source_MD @ target_ND.T).flatten(), "amax").view(shape)

    def _read_ahead(self, stream: Iterator[WordPair]) -> tuple[list[tuple[_Side, _Side]], ValueError | OSError | None]:
        """Some pairs; and what went wrong with the one after them, which is raised when these have been aligned."""
        ahead: list[tuple[_Side, _Side]] = []
        tokens = 0
        while len(ahead) < READ_AHEAD and tokens < TOKENS_AHEAD:
            try:
                pair = next(stream, None)
            except (ValueError, OSError) as error:
                return ahead, error
            if pair is None:
                break
            sides = self._encode(pair[0]), self._encode(pair[1])
            tokens += len(sides[0]) + len(sides[1])
            ahead.append(sides)
        return ahead, None

    def _align_ahead(self, ahead: list[tuple[_Side, _Side]], scored: bool) -> Iterator[list[ScoredLinks]]:
        parts = [part for index, sides in enumerate(ahead) for part in self._parts(index, *sides)]
        links: list[list[ScoredLinks]] = [[] for _ in ahead]
        non_finite: set[int] = set()
        layers = 0
        for batch in self._batches(parts):
            for layer, found in enumerate(self._align_batch(batch, scored)):
                layers = max(layers, layer + 1)
                non_finite |= {batch[i].pair for i in torch.nonzero(found.non_finite_B).flatten().tolist()}
                _add_word_links(found, batch, layer, links)
        self.report.pairs += len(ahead)
        self.report.non_finite_pairs += len(non_finite)
        if not layers:
            # Nothing but empty pairs so far: how many layers are wanted shows on any token.
            layers = len(self._hidden_states(pack([[BOS]])))
        for of_pair in links:
            of_pair += [{} for _ in range(layers - len(of_pair))]
            yield [dict(sorted(of_layer.items())) for of_layer in of_pair]

    def _encode(self, words: Sequence[str]) -> _Side:
        ids: list[int] = []
        word_of_id: list[int] = []
        for index, word in enumerate(words):
            pieces = self._pieces.get(word)
            if pieces is None:
                pieces = self._tokenizer.encode_words([word])[0]
                if len(self._pieces) >= KNOWN_WORDS:
                    self._pieces.clear()
                self._pieces[word] = pieces
            ids += pieces
            word_of_id += [index] * len(pieces)
        return _Side(ids, word_of_id)

    def _parts(self, pair: int, source: _Side, target: _Side) -> Iterator[_Part]:
        """The pair whole, or its windows; nothing where a side is empty."""
        if not source.ids or not target.ids:
            self.report.empty_pairs += 1
            return
        longer = max(len(source), len(target))
        if longer <= self._longest_side:
            yield _Part(pair, source, target, self._tokens(source, target))
            return
        # Starts are at most half a window apart on the longer side.
        count = 1 + -(-2 * (longer - self._window) // self._window)
        self.report.long_pairs += 1
        self.report.windows += count
        source_starts, target_starts = self._starts(len(source), count), self._starts(len(target), count)
        starts = source_starts if len(source) >= len(target) else target_starts
        # A token is nearest to the window whose middle is; borders lie halfway between two middles.
        middles = [(a + b + self._window) // 2 for a, b in pairwise(starts)]
        borders = [0, *middles, longer]
        for k in range(count):
            cut_source, cut_target = self._cut(source, source_starts[k]), self._cut(target, target_starts[k])
            owned = borders[k] - starts[k], borders[k + 1] - starts[k]
            by_source = starts is source_starts
            yield _Part(
                pair,
                cut_source,
                cut_target,
                self._tokens(cut_source, cut_target),
                owned if by_source else None,
                None if by_source else owned,
            )

    def _starts(self, length: int, count: int) -> list[int]:
        """Where the windows of a side begin: spread evenly, the last ends with the side; all 0 where it fits whole."""
        over = max(length - self._window, 0)
        return [round(k * over / (count - 1)) for k in range(count)]

    def _cut(self, side: _Side, start: int) -> _Side:
        end = start + self._window
        return _Side(side.ids[start:end], side.word_of_id[start:end])

    def _tokens(self, source: _Side, target: _Side) -> int:
        return len(source) + len(target) + (3 if self._joint else 4)

    def _batches(self, parts: list[_Part]) -> Iterator[list[_Part]]:
        """Parts of like lengths, at most `batch_tokens` tokens together (or a single part)."""
        batch: list[_Part] = []
        tokens = 0
        for part in sorted(parts, key=lambda part: part.tokens):
            if batch and tokens + part.tokens > self._batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(part)
            tokens += part.tokens
        if batch:
            yield batch

    def _pack(self, batch: list[_Part]) -> tuple[Packed, Spans]:
        source_length_B = torch.tensor([len(part.source) for part in batch])
        target_length_B = torch.tensor([len(part.target) for part in batch])
        if self._joint:
            packed = pack([[BOS, *part.source.ids, EOS, *part.target.ids, EOS] for part in batch])
            source_start_B = torch.as_tensor(packed.offsets_S1[:-1]) + 1
            target_start_B = source_start_B + source_length_B + 1
        else:
            packed = pack([[BOS, *side.ids, EOS] for part in batch for side in (part.source, part.target)])
            start_B2 = torch.as_tensor(packed.offsets_S1[:-1]).view(-1, 2) + 1
            source_start_B, target_start_B = start_B2.unbind(dim=1)
        return packed, Spans(source_start_B, source_length_B, target_start_B, target_length_B)

    @torch.no_grad()
    def _align_batch(self, batch: list[_Part], scored: bool) -> Iterator[TokenLinks]:
        """The token links of every part, for each layer."""
        packed, spans = self._pack(batch)
        for hidden_TD in self._hidden_states(packed):
            yield find_links(hidden_TD, spans, self._method, self._settings, scored)


def _add_word_links(found: TokenLinks, batch: list[_Part], layer: int, links: list[list[ScoredLinks]]) -> None:
    """The union over subwords and windows, each word link with the largest score."""
    scores = found.score_L.tolist() if found.score_L is not None else [0.0] * len(found.triple_L3)
    for part in batch:
        of_pair = links[part.pair]
        if len(of_pair) <= layer:
            of_pair.append({})
    for (number, source, target), score in zip(found.triple_L3.tolist(), scores, strict=True):
        part = batch[number]
        if not _owns(part.owned_source, source) or not _owns(part.owned_target, target):
            continue
        of_layer = links[part.pair][layer]
        link = (part.source.word_of_id[source], part.target.word_of_id[target])
        if link not in of_layer or of_layer[link] < score:
            of_layer[link] = score


def _owns(owned: tuple[int, int] | None, token: int) -> bool:
    return owned is None or owned[0] <= token < owned[1]
