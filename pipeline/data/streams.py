"""From token files to samples: endless streams of blocks and of pairs, and how a step's global batch is cut from them.

NumPy alone: what a config would train is told without PyTorch. Nothing here has state that a checkpoint would have to save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.token_files.block_table import Block, chunks_of
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import TOKEN_BYTES, VERIFY, TokenFile, are_stored_ids, shard_file
from data_prep.tokenizers.special_ids import UNK
from pipeline.data.assembly import Pieces, with_specials
from pipeline.data.blend import Schedule, Stage
from pipeline.data.counter_random import ORDER, SWAP, hash_key, permute
from pipeline.data.shards import ShardLanguage
from pipeline.settings.schema import Config

ANY_INT32 = 1 << 31


@dataclass
class Sequences:
    """Token sequences ready to mask: the same fields for blocks and pairs."""

    ids_T: np.ndarray  # int64, one sequence after the other, special tokens included
    lengths_S: np.ndarray  # int64
    language_S: np.ndarray  # int32
    key_S: np.ndarray  # uint64: seed, language, epoch and index of each sequence
    sample_S: np.ndarray  # int64 global sample index
    side_lengths_S2: np.ndarray | None = None  # int64 source and target tokens; None for blocks

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
        parts = []
        for language in np.unique(language_S):
            mine = np.flatnonzero(language_S == language)
            parts.append((mine, self._read(int(language), index_S[mine], key_S[mine])))
        pieces = Pieces.put_together(parts, len(index_S))
        tokens = pieces.tokens()
        if not are_stored_ids(tokens, self.vocab_size):
            raise ValueError(self._damage(language_S, index_S, key_S))
        ids_T, lengths_S = with_specials(pieces, tokens)
        sides_S2 = pieces.length_C.reshape(-1, 2) if self.has_sides else None
        return Sequences(ids_T, lengths_S, language_S, key_S, global_index_S, sides_S2)

    def _damage(self, language_S: np.ndarray, index_S: np.ndarray, key_S: np.ndarray) -> str:
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

    def _open(self, shards: list[Shard]) -> ShardLanguage:
        return ShardLanguage(shards)

    def _weight(self, shard: Shard) -> int:
        return shard.sequences // 2

    def longer_than_limit(self) -> int:
        """How many pairs have a side that is cut when they are read."""
        return sum(language.pairs_longer_than(self.limit) for language in self._languages)

    def _read(self, language: int, indices: np.ndarray, key: np.ndarray) -> Pieces:
        swap_S = (hash_key(key, SWAP) >> np.uint64(63)).astype(bool)
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


def limits_of(config: Config) -> dict[str, int]:
    """The longest block, and the longest side of a pair, in tokens, by stream."""
    return {"mono": config.data.block_tokens, "pairs": config.data.side_tokens}


def blend_stages(config: Config, stream: str) -> list[Stage]:
    """The blends of a stream's languages, each with its first sample."""
    alpha, weights = config.data.alpha, config.data.weights
    stages = [Stage(0, alpha, getattr(weights, stream) or None)]
    for later in config.data.schedule:
        alpha = alpha if later.alpha is None else later.alpha
        weights = weights if later.weights is None else later.weights
        stages.append(Stage(later.from_step * getattr(config.batch, stream), alpha, getattr(weights, stream) or None))
    return stages


def open_streams(
    manifest: Manifest,
    streams: Sequence[str],
    *,
    alpha: float,
    seed: int,
    limits: dict[str, int],
    stages: Mapping[str, Sequence[Stage]] | None = None,
) -> dict[str, Stream]:
    """The streams of a DATA_DIR by name; ValueError where the manifest has no data for one."""
    opened: dict[str, Stream] = {}
    for name in streams:
        shards = shards_of(manifest, name)
        stream = MonoStream if name == "mono" else PairStream
        opened[name] = stream(shards, alpha, seed, limits[name], (stages or {}).get(name, ()), manifest.vocab_size)
    return opened


def shards_of(manifest: Manifest, stream: str) -> dict[str, list[Shard]]:
    """A stream's shards by language or pair; ValueError where there are none."""
    shards = manifest.mono if stream == "mono" else manifest.pairs
    if not shards:
        raise ValueError(
            f"{manifest.data_dir / 'manifest.json'}: holds no {stream} data, which an objective of this run reads; "
            f"add some with `python -m data_prep {'mono' if stream == 'mono' else 'parallel'}` or drop the objective"
        )
    return shards
