"""From token files to samples: endless streams of blocks and of pairs, and how a step's global batch is cut from them.

NumPy alone: what a config would train is told without PyTorch. Nothing here has state that a checkpoint would have to save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from data_prep.token_files.block_table import Block, chunks_of
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.mapped import VERIFY
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import TOKEN_BYTES, TokenFile, are_stored_ids, shard_file
from data_prep.tokenizers.special_ids import UNK
from pipeline.data.assembly import Pieces, with_specials
from pipeline.data.blend import Schedule, Stage
from pipeline.data.counter_random import CONTRAST, MIX, ORDER, PARTNER, SWAP, hash_key, permute, uniform
from pipeline.data.given_links import check_links, read_links
from pipeline.data.shards import ShardLanguage

ANY_INT32 = 1 << 31
ORDERS = {
    # By three bits the order on the source side, that on the target side, and which side comes first.
    "released": np.array(
        [
            (*first, *second)
            for turned in (False, True)
            for target in ((1, 3), (3, 1))
            for source in ((0, 2), (2, 0))
            for first, second in [(target, source) if turned else (source, target)]
        ]
    ),
    # By three bits which way round each pair is, and ⟨c1 d1, c2 d2⟩ or ⟨c1 d2, d1 c2⟩.
    "paper": np.array(
        [
            (c1, d2, d1, c2) if crossed else (c1, d1, c2, d2)
            for crossed in (False, True)
            for d1, d2 in ((2, 3), (3, 2))
            for c1, c2 in ((0, 1), (1, 0))
        ]
    ),
}
"""How the sentences of two mixed pairs lie, the first side's two and then the second's: 0 and 1 are source and target of one, 2
and 3 of the other. One of eight ways is drawn for each sample."""


@dataclass
class Sequences:
    """Token sequences ready to mask: the same fields for blocks and pairs."""

    ids_T: np.ndarray  # int64, one sequence after the other, special tokens included
    lengths_S: np.ndarray  # int64
    language_S: np.ndarray  # int32
    key_S: np.ndarray  # uint64: seed, language, epoch and index of each sequence
    sample_S: np.ndarray  # int64 global sample index
    side_lengths_S2: np.ndarray | None = None  # int64 source and target tokens; None for blocks
    languages: Sequence[
        tuple[str, ...]
    ] = ()  # what language_S counts: a language, or those of a pair's sides in its files
    swapped_S: np.ndarray | None = None  # bool, whether a pair's second side comes first; None for blocks
    links_K3: np.ndarray | None = (
        None  # int64: pair, token of its first and of its second side; None where not asked for
    )

    @property
    def ids(self) -> list[np.ndarray]:
        """Each sequence's ids, as a view."""
        return np.split(self.ids_T, np.cumsum(self.lengths_S)[:-1])


class Stream(ABC):
    """An endless, shuffled, language-blended sequence of samples of one kind, addressed by global sample index."""

    has_sides = False  # samples are pairs: exactly two chunks each

    def __init__(
        self,
        shards: dict[str, list[Shard]],
        alpha: float,
        seed: int,
        limit: int,
        stages: Sequence[Stage] = (),
        vocab_size: int = ANY_INT32,
    ) -> None:
        """
        Args:
            stages: blends that follow one another; without any, `alpha` all along.
            vocab_size: of the tokenizer that made the shards; ids outside of it are damage.
        """
        self.limit, self.seed, self.vocab_size = limit, seed, vocab_size
        self.stages = list(stages) or [Stage(0, alpha)]
        self.names = sorted(shards)
        self.languages = [shards[name][0].languages for name in self.names]
        self._languages = [self._open(shards[name]) for name in self.names]
        self.counts = [len(language) for language in self._languages]
        for name, count in zip(self.names, self.counts, strict=True):
            assert count > 0, f"the manifest lists {name} without anything in it"
        weights = [sum(self._weight(shard) for shard in shards[name]) for name in self.names]
        self.stage_shares = [stage.shares(self.names, weights) for stage in self.stages]
        self.shares = self.stage_shares[0]
        self._blend = Schedule([stage.first for stage in self.stages], self.stage_shares, seed)

    @abstractmethod
    def _open(self, shards: list[Shard]) -> ShardLanguage: ...

    @abstractmethod
    def _weight(self, shard: Shard) -> int:
        """n(l) of the sampling distribution, per shard."""

    @abstractmethod
    def _read(self, language: int, indices: np.ndarray, key: np.ndarray) -> Pieces:
        """The samples' tokens, without special tokens."""

    @property
    def cut_at_start(self) -> int:
        """Shards whose blocks had to be found at the start, as they were made for another size."""
        return sum(language.cut_here for language in self._languages)

    def samples(self, global_index_S: np.ndarray) -> Sequences:
        """The samples at these places of the endless sequence.

        Raises:
            ValueError: a shard is missing, cut or damaged where they lie; names its file.
        """
        language_S, ordinal_S = self._blend(global_index_S)
        count_S = np.array(self.counts)[language_S]
        epoch_S, index_S = np.divmod(ordinal_S, count_S)
        index_S = permute(index_S, count_S, hash_key(self.seed, ORDER, language_S, epoch_S))
        return self._gather(language_S, epoch_S, index_S, global_index_S)

    def head(self, language: int, indices: np.ndarray) -> Sequences:
        """Samples `indices` of a language in file order, with masks that never change: for validation."""
        languages = np.full(len(indices), language, dtype=np.int32)
        return self._gather(languages, np.zeros_like(indices), indices, indices)

    def _gather(
        self, language_S: np.ndarray, epoch_S: np.ndarray, index_S: np.ndarray, global_index_S: np.ndarray
    ) -> Sequences:
        key_S = hash_key(self.seed, language_S, epoch_S, index_S)
        pieces = self._pieces(language_S, index_S, key_S, global_index_S)
        tokens = pieces.tokens()
        if not are_stored_ids(tokens, self.vocab_size):
            raise ValueError(self._damage(language_S, index_S, key_S, global_index_S))
        ids_T, lengths_S = with_specials(pieces, tokens)
        told = self._side_lengths(pieces), self.languages, self._swaps(key_S), self._links(language_S, index_S, key_S)
        return Sequences(ids_T, lengths_S, language_S, key_S, global_index_S, *told)

    def _pieces(
        self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray, global_index_S: np.ndarray
    ) -> Pieces:
        """The samples' tokens. global_index_S: which of several blends they are of."""
        return self._by_language(language_S, index_S, key_S)

    def _by_language(self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray) -> Pieces:
        parts = []
        for language in np.unique(language_S):
            mine = np.flatnonzero(language_S == language)
            parts.append((mine, self._read(int(language), index_S[mine], key_S[mine])))
        return Pieces.put_together(parts, len(index_S))

    def _swaps(self, key_S: np.ndarray) -> np.ndarray | None:
        """Whether each pair's target comes first; None for blocks."""
        return None

    def _links(self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray) -> np.ndarray | None:
        """The word links of the pairs as `Sequences` has them; None where nobody asks for them."""
        return None

    def _side_lengths(self, pieces: Pieces) -> np.ndarray | None:
        return pieces.length_C.reshape(-1, 2) if self.has_sides else None

    def _damage(
        self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray, global_index_S: np.ndarray
    ) -> str:
        """Which file holds the first of these samples whose ids are none of the vocabulary's."""
        for place, language in enumerate(language_S.tolist()):
            one = slice(place, place + 1)
            ids = self._read(language, index_S[one], key_S[one]).tokens()
            if not are_stored_ids(ids, self.vocab_size):
                [(file, *_)] = self._languages[language].locate(index_S[one])
                told = f"ids from {ids.min()} to {ids.max()}, allowed are {UNK} to {self.vocab_size - 2}"
                return f"{shard_file(file.stem, '.bin')}: {told}; {VERIFY}"
        raise AssertionError("one of the samples has such an id")


class MonoStream(Stream):
    """Blocks of whole sentences: `<s> sent </s> sent </s> …`, at most `limit` tokens."""

    def _open(self, shards: list[Shard]) -> ShardLanguage:
        return ShardLanguage(shards, block_tokens=self.limit)

    def _weight(self, shard: Shard) -> int:
        return shard.tokens

    def _read(self, language: int, indices: np.ndarray, key: np.ndarray) -> Pieces:
        found: list[tuple[TokenFile, Block]] = [None] * len(indices)  # type: ignore[list-item]  # all are filled
        for file, table, places, numbers in self._languages[language].locate(indices):
            assert table is not None, "a shard without a table was given one"
            for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
                found[place] = file, file.read_block(table, number)
        chunks, sound_S = chunks_of([block for _, block in found], self.limit, TOKEN_BYTES)
        if not sound_S.all():
            raise ValueError(found[int(np.argmin(sound_S))][0].damage)
        views = [(file.tokens[block.start : block.end],) for file, block in found]
        return Pieces(views, chunks.chunks_B, chunks.length_C)


class PairStream(Stream):
    """Translation pairs: `<s> src </s> trg </s>`, which language comes first drawn per sample, sides cut to `limit`."""

    has_sides = True

    def __init__(self, *arguments: Any, with_links: bool = False, **named: Any) -> None:
        """As any stream; with_links: every shard has word links, and they come with the samples."""
        super().__init__(*arguments, **named)
        self._with_links = with_links

    def _open(self, shards: list[Shard]) -> ShardLanguage:
        return ShardLanguage(shards)

    def _weight(self, shard: Shard) -> int:
        return shard.sequences // 2

    def longer_than_limit(self) -> int:
        """How many pairs have a side that is cut when they are read."""
        return sum(language.pairs_longer_than(self.limit) for language in self._languages)

    def _swaps(self, key_S: np.ndarray) -> np.ndarray:
        return (hash_key(key_S, SWAP) >> np.uint64(63)).astype(bool)

    def _links(self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray) -> np.ndarray | None:
        if not self._with_links:
            return None
        return read_links(self._languages, language_S, index_S, self._swaps(key_S), self.limit)

    def _read(self, language: int, indices: np.ndarray, key: np.ndarray) -> Pieces:
        swap_S = self._swaps(key)
        views: list[tuple[np.ndarray, ...]] = [()] * len(indices)
        length_S2 = np.empty((len(indices), 2), dtype=np.int64)
        for file, _, places, pairs in self._languages[language].locate(indices):
            begin_B2, length_B2 = file.read_pairs(pairs)
            length_B2 = np.minimum(length_B2, self.limit)
            turned = swap_S[places]
            begin_B2[turned], length_B2[turned] = begin_B2[turned, ::-1], length_B2[turned, ::-1]
            length_S2[places] = length_B2
            bounds = np.concatenate([begin_B2, begin_B2 + length_B2], axis=1).tolist()
            for place, (begin, other_begin, end, other_end) in zip(places.tolist(), bounds, strict=True):
                views[place] = (file.tokens[begin:end], file.tokens[other_begin:other_end])
        return Pieces(views, np.full(len(indices), 2), length_S2.reshape(-1))


class ContrastStream(PairStream):
    """Samples of sentence contrast, drawn apart from what `pairs` draws: a pair each, or two pairs as `mixing` says.

    A sample of two is `<s> a </s> b </s> c </s> d </s>`: one side of a and b, and one of c and d, which says the same. As
    released (InfoXLM's xlco_dataset.py) the second pair is the first one's neighbour in its language's files. As published
    (Chi et al., NAACL 2021) it is any pair of another corpus. How they lie: `ORDERS`.
    """

    def __init__(self, mixing: str, seed: int, **named: Any) -> None:
        """As a stream of pairs, and mixing: "none", "released" or "paper"."""
        super().__init__(seed=int(hash_key(seed, CONTRAST)), **named)
        self._mixing = mixing

    def _pieces(
        self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray, global_index_S: np.ndarray
    ) -> Pieces:
        if self._mixing == "none":
            return super()._pieces(language_S, index_S, key_S, global_index_S)
        both = (language_S, index_S), self._partners(language_S, index_S, key_S, global_index_S)
        one, other = (self._by_language(*where, key_S) for where in both)
        lies_S4 = ORDERS[self._mixing][(hash_key(key_S, MIX) >> np.uint64(61)).astype(np.int64)]
        length_S4 = np.concatenate([one.length_C.reshape(-1, 2), other.length_C.reshape(-1, 2)], axis=1)
        views_S = [
            tuple((*pair, *partner)[place] for place in lies)
            for pair, partner, lies in zip(one.views_S, other.views_S, lies_S4.tolist(), strict=True)
        ]
        return Pieces(views_S, np.full(len(index_S), 4), np.take_along_axis(length_S4, lies_S4, axis=1).reshape(-1))

    def _swaps(self, key_S: np.ndarray) -> np.ndarray:
        return super()._swaps(key_S) if self._mixing == "none" else np.zeros(len(key_S), bool)

    def _partners(
        self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray, global_index_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Language and index of the pair that each sample's own is mixed with."""
        count_L = np.array(self.counts)
        if self._mixing == "released":
            next_S = index_S ^ 1
            last_S = next_S == count_L[language_S]  # of an odd number: it has one neighbour, before it
            return language_S, np.maximum(next_S - 2 * last_S, 0)
        stage_S = np.searchsorted([stage.first for stage in self.stages], global_index_S, side="right") - 1
        share_SL = np.array(self.stage_shares)[stage_S]
        share_SL[np.arange(len(index_S)), language_S] = 0.0
        up_to_SL = np.cumsum(share_SL, axis=1)
        drawn_S = uniform(hash_key(key_S, PARTNER, 0)) * up_to_SL[:, -1]
        other_S = (drawn_S[:, None] >= up_to_SL).sum(axis=1)
        other_S = np.where(up_to_SL[:, -1] > 0, other_S, language_S).astype(language_S.dtype)  # there may be no other
        return other_S, (uniform(hash_key(key_S, PARTNER, 1)) * count_L[other_S]).astype(np.int64)

    def _side_lengths(self, pieces: Pieces) -> np.ndarray:
        if self._mixing == "none":
            return pieces.length_C.reshape(-1, 2)
        return pieces.length_C.reshape(-1, 2, 2).sum(axis=2) + 1  # the end of the first sentence lies within

    def _damage(
        self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray, global_index_S: np.ndarray
    ) -> str:
        if self._mixing != "none":
            partners = self._partners(language_S, index_S, key_S, global_index_S)
            language_S, index_S = (np.concatenate(two) for two in zip((language_S, index_S), partners, strict=True))
            key_S, global_index_S = np.tile(key_S, 2), np.tile(global_index_S, 2)
        return super()._damage(language_S, index_S, key_S, global_index_S)


@dataclass
class BatchPlan:
    """How an optimizer step's global batch is cut: sample indices by step, micro-step and rank."""

    global_sizes: dict[str, int]  # blocks or pairs per optimizer step, by stream
    world_size: int
    micro_steps: int

    def __post_init__(self) -> None:
        parts = self.world_size * self.micro_steps
        for name, size in self.global_sizes.items():
            if size % parts:
                raise ValueError(
                    f"batch.{name} = {size} cannot be cut into {self.world_size} ranks × {self.micro_steps} micro-steps: "
                    f"make it a multiple of {parts} or change batch.micro_steps"
                )

    def indices(self, name: str, step: int, micro_step: int, rank: int) -> np.ndarray:
        """Global sample indices (int64) of one stream for one rank's micro-step."""
        size = self.global_sizes[name]
        share = size // (self.world_size * self.micro_steps)
        first = step * size + (micro_step * self.world_size + rank) * share
        return np.arange(first, first + share)


def open_streams(
    manifest: Manifest,
    streams: Sequence[str],
    *,
    alpha: float,
    seed: int,
    limits: dict[str, int],
    stages: Mapping[str, Sequence[Stage]] | None = None,
    mixing: str = "none",
    with_links: bool = False,
) -> dict[str, Stream]:
    """The streams of a DATA_DIR by name; ValueError where the manifest has no data for one.

    mixing: of the stream "contrast"; with_links: whether the stream "pairs" reads the word links of its pairs.
    """
    kinds: dict[str, Callable[..., Stream]] = {
        "mono": MonoStream,
        "pairs": partial(PairStream, with_links=with_links),
        "contrast": partial(ContrastStream, mixing=mixing),
    }
    return {
        name: kinds[name](
            shards=shards_of(manifest, name, with_links),
            alpha=alpha,
            seed=seed,
            limit=limits[name],
            stages=(stages or {}).get(name, ()),
            vocab_size=manifest.vocab_size,
        )
        for name in streams
    }


def shards_of(manifest: Manifest, stream: str, with_links: bool = False) -> dict[str, list[Shard]]:
    """A stream's shards by language or pair; ValueError where there are none, or of pairs one without the links asked for."""
    kind = "mono" if stream == "mono" else "pairs"
    shards = manifest.mono if kind == "mono" else manifest.pairs
    if not shards:
        raise ValueError(
            f"{manifest.data_dir / 'manifest.json'}: holds no {kind} data, which an objective of this run reads; "
            f"add some with `python -m data_prep {'mono' if kind == 'mono' else 'parallel'}` or drop the objective"
        )
    if with_links and stream == "pairs":
        check_links(manifest)
    return shards
