"""From words to word links: tokenised pairs in, the links of every word out, for one layer or many.

Knows a tokenizer and something that gives hidden states; nothing of files, checkpoints or scores against gold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.tokenizers.template import Template
from pipeline.align.link_methods import TokenLinks, check_method, find_links
from pipeline.align.windows import Side, WindowPart, cut_into_parts
from pipeline.align.workers import Map, side_by_side
from pipeline.data.packing import Packed, pack
from pipeline.settings.align_options import AS_TRAINED, ENCODINGS, WINDOW, Way
from pipeline.texts.sentence_pairs import WordPair
from pipeline.texts.word_splitting import visible
from sinkhorn_align import AlignmentSettings, Spans

T = TypeVar("T")
WordLinks = list[tuple[int, int]]
ScoredLinks = dict[tuple[int, int], float]
"""Links (source word, target word) from 0, sorted, and of each the largest cosine of its subword links."""
HiddenStates = Callable[[Packed], Sequence[Tensor]]

FIRST_AHEAD, READ_AHEAD = 32, 1024
"""Pairs that are read ahead and sorted by length, so that a batch holds pairs of like lengths: few at first, so that the first
links come soon, and twice as many each time. By number and not by time, so that a file gives the same links every time."""
TOKENS_AHEAD = 1 << 18
"""Tokens that are read ahead at most (or one pair), so that memory stays flat where lines are long."""
BATCH_TOKENS = 4096
"""Of a batch, right for CPUs: larger ones leave the cache, smaller ones spend more time on calls."""
LEAST_BATCH_TOKENS = 512
"""Of batches that are made smaller so that every worker has one: below, calls outweigh the work."""
KNOWN_WORDS = 1 << 17
"""Words whose pieces are remembered; frequent words make up most of a text."""


class WordEncoder(Protocol):
    """What is asked of a tokenizer: ids of all words, each encoded by itself, and for each id its word's index."""

    @property
    def template(self) -> Template: ...

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

    def count(self, pairs: int, parts_of_pair: Counter[int], non_finite: int) -> None:
        """Add so many pairs; `parts_of_pair` has those that were aligned, with the number of their windows."""
        windows = [parts for parts in parts_of_pair.values() if parts > 1]
        self.pairs += pairs
        self.empty_pairs += pairs - len(parts_of_pair)
        self.long_pairs += len(windows)
        self.windows += sum(windows)
        self.non_finite_pairs += non_finite


@dataclass
class _Chunk:
    """Pairs that were read ahead, and the token links of their batches, which may be under way."""

    pairs: int
    batches: list[list[WindowPart]]
    found: Iterator[list[TokenLinks]]


class WordAligner:
    """Aligns the words of pairs: two words are linked when any of their subwords are.

    Where a side is longer than `longest_side`, the pair is aligned by windows, see `windows.cut_into_parts`.

    Args:
        tokenizer: encodes words, see `WordEncoder`.
        hidden_states: gives hidden states [T, D] of a packed batch (which is on the CPU), a tensor for each layer wanted.
        way: its method is how links are found, see `link_methods.find_links`; its encoding `joint` encodes a pair in one
            sequence by the tokenizer's template, as pretraining does (`<s> source </s> target </s>`), `separate` each side
            alone.
        also: other ways to find links, of the same encoding, in the same hidden states: each pair has the layers' links by
            `way` first and then those by each of these.
        longest_side: tokens of a side that is aligned whole.
        window: tokens of a window, at most `longest_side`. Small ones align better, large ones bear more that one side runs
            ahead of the other: a quarter of a window is always seen.
        batch_tokens: tokens of a batch, special tokens included; bounds memory, not results.
        side_by_side: on a CPU, as many batches at the same time as PyTorch has threads; `hidden_states` is then called by
            several threads.

    Raises:
        ValueError: an unknown method or encoding, or settings that the method does not read.
    """

    def __init__(
        self,
        tokenizer: WordEncoder,
        hidden_states: HiddenStates,
        way: Way = AS_TRAINED,
        *,
        also: Sequence[Way] = (),
        longest_side: int = 254,
        window: int = WINDOW,
        batch_tokens: int = BATCH_TOKENS,
        side_by_side: bool = False,
    ) -> None:
        for each in (way, *also):
            check_method(each.method, each.settings)
        assert all(each.encoding == way.encoding for each in also), "hidden states are of one encoding"
        if way.encoding not in ENCODINGS:
            raise ValueError(f"encoding {way.encoding!r}: choose {' or '.join(ENCODINGS)}")
        self.report = AlignmentReport()
        self._tokenizer = tokenizer
        self._hidden_states = hidden_states
        self._ways = [(each.method, each.settings or AlignmentSettings()) for each in (way, *also)]
        self._joint = way.encoding == "joint"
        if window < 1:
            raise ValueError(f"window {window}: it must have at least 1 token; {WINDOW} is a good number")
        self._longest_side, self._window = longest_side, min(window, longest_side)
        self._batch_tokens, self._side_by_side = batch_tokens, side_by_side
        self._pieces: dict[str, list[int]] = {}

    def align(self, pairs: Iterable[WordPair | None]) -> Iterator[list[WordLinks]]:
        """For every pair in order: for each layer its links (source word, target word) from 0, sorted."""
        return ([list(links) for links in layers] for layers in self.links_by_layer(pairs, scored=False))

    def links_by_layer(self, pairs: Iterable[WordPair | None], scored: bool) -> Iterator[list[ScoredLinks]]:
        """`align` with a score for every link, 0 unless `scored`.

        pairs: None among them says that nothing more is there yet: what was read is then aligned without waiting for more.

        A ValueError or OSError of the pairs is raised when all pairs before it have been aligned.
        """
        return (links for of_pairs in self.links_as_they_come(pairs, scored) for links in of_pairs)

    def links_as_they_come(
        self, pairs: Iterable[WordPair | None], scored: bool
    ) -> Iterator[Iterable[list[ScoredLinks]]]:
        """`links_by_layer` by as many pairs as are aligned together: after each of them more may have to be waited for."""
        with side_by_side(self._workers()) as run:
            chunks = (None if ahead is None else self._begin(ahead, scored, run) for ahead in self._read_ahead(pairs))
            for chunk in _one_behind(chunks):
                yield self._finish(chunk)

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
        packed, spans = self._pack([WindowPart(0, *sides)])
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

    def _workers(self) -> int:
        return torch.get_num_threads() if self._side_by_side else 1

    def _read_ahead(self, pairs: Iterable[WordPair | None]) -> Iterator[list[tuple[Side, Side]] | None]:
        """The pairs' tokens, many pairs at a time; None where nothing more is there yet. What went wrong with a pair is
        raised after all before it."""
        ahead: list[tuple[Side, Side]] = []
        tokens, problem, most = 0, None, min(FIRST_AHEAD, READ_AHEAD)
        try:
            for pair in pairs:
                if pair is not None:
                    sides = self._encode(pair[0]), self._encode(pair[1])
                    ahead.append(sides)
                    tokens += len(sides[0]) + len(sides[1])
                if ahead and (pair is None or len(ahead) >= most or tokens >= TOKENS_AHEAD):
                    yield ahead
                    ahead, tokens, most = [], 0, min(2 * most, READ_AHEAD)
                if pair is None:
                    most = min(FIRST_AHEAD, READ_AHEAD)
                    yield None
        except (ValueError, OSError) as error:
            problem = error
        if ahead:
            yield ahead
        if problem is not None:
            raise problem

    def _begin(self, ahead: list[tuple[Side, Side]], scored: bool, run: Map) -> _Chunk:
        parts: list[WindowPart] = []
        for number, sides in enumerate(ahead):
            parts += cut_into_parts(number, *sides, self._longest_side, self._window)
        batches = self._batches(parts)
        run = run if len(batches) > 1 else map
        return _Chunk(len(ahead), batches, run(partial(self._align_batch, scored=scored), batches))

    def _finish(self, chunk: _Chunk) -> Iterator[list[ScoredLinks]]:
        links: list[list[ScoredLinks]] = [[] for _ in range(chunk.pairs)]
        non_finite: set[int] = set()
        layers = 0
        for batch, of_layers in zip(chunk.batches, chunk.found, strict=True):
            layers = len(of_layers)
            for layer, found in enumerate(of_layers):
                non_finite |= {batch[i].pair for i in torch.nonzero(found.non_finite_B).flatten().tolist()}
                _add_word_links(found, batch, layer, links)
        self.report.count(chunk.pairs, Counter(part.pair for batch in chunk.batches for part in batch), len(non_finite))
        if not layers:
            # Nothing but empty pairs: how many layers are wanted shows on any token.
            layers = len(self._ways) * len(self._hidden_states(pack([self._tokenizer.encode_words(["a"])[0]])))
        for of_pair in links:
            of_pair += [{} for _ in range(layers - len(of_pair))]
            yield [dict(sorted(of_layer.items())) for of_layer in of_pair]

    def _encode(self, words: Sequence[str]) -> Side:
        ids: list[int] = []
        word_of_id: list[int] = []
        for index, word in enumerate(words):
            pieces = self._pieces.get(word)
            if pieces is None:
                pieces = self._tokenizer.encode_words([visible(word)])[0]
                if len(self._pieces) >= KNOWN_WORDS:
                    self._pieces.clear()
                self._pieces[word] = pieces
            ids += pieces
            word_of_id += [index] * len(pieces)
        return Side(ids, word_of_id)

    def _batches(self, parts: list[WindowPart]) -> list[list[WindowPart]]:
        """Parts of like lengths, about as many tokens in each batch and no more than `batch_tokens` (or a single part)."""
        if not parts:
            return []
        total, longest = (of(part.tokens for part in parts) for of in (sum, max))
        workers = min(self._workers(), max(total // LEAST_BATCH_TOKENS, 1))
        rounds = -(-total // (workers * max(self._batch_tokens - longest, 1)))
        batches: list[list[WindowPart]] = [[] for _ in range(workers * rounds)]
        before = 0
        # By the longest sequence, to which others are padded in attention; the longest first, as they take the most time.
        longest_sequence = sum if self._joint else max
        for part in sorted(parts, key=lambda part: longest_sequence(part.lengths), reverse=True):
            batches[before * len(batches) // total].append(part)
            before += part.tokens
        return [batch for batch in batches if batch]

    def _pack(self, batch: list[WindowPart]) -> tuple[Packed, Spans]:
        source_length_B = torch.tensor([len(part.source) for part in batch])
        target_length_B = torch.tensor([len(part.target) for part in batch])
        template = self._tokenizer.template
        frame = template.pair if self._joint else template.alone
        sides = [(part.source.ids, part.target.ids) for part in batch]
        sequences = sides if self._joint else [(side,) for both in sides for side in both]
        packed = pack([frame.around(*one) for one in sequences], [frame.types_around(*one) for one in sequences])
        start_S = torch.as_tensor(packed.offsets_S1[:-1]) + len(frame.special[0])
        if self._joint:
            source_start_B, target_start_B = start_S, start_S + source_length_B + len(frame.special[1])
        else:
            source_start_B, target_start_B = start_S.view(-1, 2).unbind(dim=1)
        return packed, Spans(source_start_B, source_length_B, target_start_B, target_length_B)

    @torch.no_grad()
    def _align_batch(self, batch: list[WindowPart], scored: bool) -> list[TokenLinks]:
        """The token links of every part, for each layer of each way."""
        packed, spans = self._pack(batch)
        states = self._hidden_states(packed)
        return [find_links(hidden_TD, spans, *way, scored) for way in self._ways for hidden_TD in states]


def _one_behind(items: Iterable[T | None]) -> Iterator[T]:
    """Each item when the next has been made, or None comes; what goes wrong with one is raised after all before it."""
    held: T | None = None
    problem = None
    try:
        for item in items:
            if held is not None:
                yield held
            held = item
    except (ValueError, OSError) as error:
        problem = error
    if held is not None:
        yield held
    if problem is not None:
        raise problem


def _add_word_links(found: TokenLinks, batch: list[WindowPart], layer: int, links: list[list[ScoredLinks]]) -> None:
    """The union over subwords and windows, each word link with the largest score."""
    scores = found.score_L.tolist() if found.score_L is not None else [0.0] * len(found.triple_L3)
    for part in batch:
        of_pair = links[part.pair]
        if len(of_pair) <= layer:
            of_pair.append({})
    for (number, source, target), score in zip(found.triple_L3.tolist(), scores, strict=True):
        part = batch[number]
        if not part.owns(source, target):
            continue
        of_layer = links[part.pair][layer]
        link = (part.source.word_of_id[source], part.target.word_of_id[target])
        if link not in of_layer or of_layer[link] < score:
            of_layer[link] = score
