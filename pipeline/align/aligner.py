"""The word aligner as a library: a model folder in, the word links of sentence pairs out.

    from pipeline.align import Aligner
    aligner = Aligner.load("hf/base", layer=8)
    aligner.align([("the house", "das Haus")])  # [[(0, 0), (1, 1)]]

Puts a model, a tokenizer and `WordAligner` together; the command `align` is this class and a file reader. docs/python.md shows
what every call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

import torch

from data_prep.tokenizers.hub import place_of
from data_prep.tokenizers.special_ids import UNK
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.align.word_alignment import (
    BATCH_TOKENS,
    AlignmentReport,
    ScoredLinks,
    WordAligner,
    WordLinks,
    WordPair,
)
from pipeline.model.devices import AUTO, Place, choose_place, describe
from pipeline.model.transformers_encoder import AnyEncoder
from pipeline.settings.align_options import WINDOW, AlignOptions, Chosen, resolve
from pipeline.texts.word_splitting import split_raw, split_words
from pipeline.weights.loading import AnyTokenizer, load, longest_side
from sinkhorn_align import AlignmentSettings

TextPair = tuple[str | Sequence[str], str | Sequence[str]]
"""Source and target; a string is split into words, a list holds them."""


class ReleasedPieces:
    """Pieces of words as the released aligner takes them: SentencePiece's as they come, a lone space piece included.

    `Tokenizer.encode_words` drops that piece, which links better.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.template = tokenizer.template

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        ids = [self._tokenizer.encode(word) or [UNK] for word in words]
        return [i for of_word in ids for i in of_word], [word for word, of_word in enumerate(ids) for _ in of_word]


class Aligner:
    """A model that aligns words at one layer; `report` counts what happened so far, `options` has what was taken and why."""

    def __init__(
        self,
        encoder: AnyEncoder,
        tokenizer: AnyTokenizer,
        options: AlignOptions,
        *,
        keep_space_pieces: bool = False,
        window: int = WINDOW,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """keep_space_pieces: see `ReleasedPieces`, other tokenizers keep theirs always; window, batch_tokens: see
        `WordAligner`."""
        self.options, self.layer = options, options.layer
        first = next(encoder.parameters())
        self.device, self.place = first.device, str(Place(first.device, first.dtype))
        self._aligner = WordAligner(
            ReleasedPieces(tokenizer) if keep_space_pieces and isinstance(tokenizer, Tokenizer) else tokenizer,
            lambda packed: [encoder(packed, self.layer)],
            options.way,
            longest_side=longest_side(encoder.config, options.encoding, tokenizer.template),
            window=window,
            batch_tokens=batch_tokens,
            side_by_side=self.device.type == "cpu",
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        layer: int | None = None,
        *,
        tokenizer_dir: str | Path | None = None,
        dtype: str = AUTO,
        device: str | torch.device = AUTO,
        method: str | None = None,
        encoding: str | None = None,
        settings: AlignmentSettings | None = None,
        keep_space_pieces: bool = False,
        window: int = WINDOW,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Aligner:
        """Load what `loading.load` takes, as all commands do; ValueError says what is wrong with it.

        layer: whose hidden states are aligned, 0 the embeddings.
        dtype, device: see `devices.choose_place`.
        method, encoding, settings: see `Way`. Of these and layer, None is what was recorded with the model, or what suits a
            plain checkpoint.
        Others: see `Aligner`.
        """
        place = choose_place(device, dtype)
        loaded = load(place_of(folder), None if tokenizer_dir is None else Path(tokenizer_dir))
        options = resolve(loaded.encoder.config.layers, loaded.recorded, Chosen(layer, method, encoding, settings))
        return cls(
            loaded.to(place).encoder,
            loaded.tokenizer,
            options,
            keep_space_pieces=keep_space_pieces,
            window=window,
            batch_tokens=batch_tokens,
        )

    @property
    def device_name(self) -> str:
        """Where it runs, in words."""
        return describe(self.device)

    @property
    def report(self) -> AlignmentReport:
        return self._aligner.report

    def align(self, pairs: Iterable[TextPair], raw: bool = False) -> list[WordLinks]:
        """The links of every pair: a list of (source word, target word), counted from 0 and sorted.

        raw: strings are untokenised text, split by `word_splitting.split_raw`; without, they are split at white space. Words
            that are given as lists are taken as they are.

        Raises:
            ValueError: a pair is not two sides, or a side neither a string nor a list of strings; says which pair.
        """
        return list(self.stream(pairs, raw=raw))

    def align_scored(self, pairs: Iterable[TextPair], raw: bool = False) -> list[ScoredLinks]:
        """`align` with scores: for every pair a dictionary from link to score, sorted by links.

        A score is the cosine of the hidden states of the two subwords that link the words (the largest of several), from
        -1 to 1.
        """
        return list(self.stream(pairs, scored=True, raw=raw))

    @overload
    def stream(
        self, pairs: Iterable[TextPair], scored: Literal[False] = False, raw: bool = False
    ) -> Iterator[WordLinks]: ...

    @overload
    def stream(self, pairs: Iterable[TextPair], scored: Literal[True], raw: bool = False) -> Iterator[ScoredLinks]: ...

    def stream(
        self, pairs: Iterable[TextPair], scored: bool = False, raw: bool = False
    ) -> Iterator[WordLinks] | Iterator[ScoredLinks]:
        """What `align` gives, or with `scored` what `align_scored` gives, pair by pair as they come.

        Pairs are read ahead, 32 at first and 1,024 at most; memory does not grow with their number.
        """
        layers = self._aligner.links_by_layer(_words_of(pairs, raw), scored)
        return (links for (links,) in layers) if scored else (list(links) for (links,) in layers)

    def stream_together(
        self, pairs: Iterable[TextPair | None], scored: bool = False
    ) -> Iterator[Iterator[WordLinks] | Iterator[ScoredLinks]]:
        """`stream` by as many pairs as are aligned together; a None among the pairs says that nothing more is there yet.

        For whoever hands links on while pairs are still to come, see `arriving.Arriving`.
        """
        for together in self._aligner.links_as_they_come(_words_of(pairs, raw=False), scored):
            yield (links for (links,) in together) if scored else (list(links) for (links,) in together)

    def similarities(self, pair: TextPair, raw: bool = False) -> list[list[float]]:
        """The largest cosine of two subwords' hidden states for every source (row) and target word, for a picture.

        ValueError where a side has no words or is too long to be encoded whole.
        """
        words = _pair_of(pair, 0, split_raw if raw else split_words)
        rows: list[list[float]] = self._aligner.similarities(words).tolist()
        return rows


def _words_of(pairs: Iterable[TextPair | None], raw: bool) -> Iterator[WordPair | None]:
    if isinstance(pairs, (str, bytes)):
        raise ValueError(f"{_shown(pairs)} is no list of pairs; give pairs as {_EXAMPLE}")
    split = split_raw if raw else split_words

    def words() -> Iterator[WordPair | None]:
        for number, pair in enumerate(pairs):
            yield None if pair is None else _pair_of(pair, number, split)

    return words()


def _pair_of(pair: TextPair, number: int, split: Callable[[str], list[str]]) -> WordPair:
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:
        raise ValueError(f"pair {number} is {_shown(pair)}, not a source and a target; give pairs as {_EXAMPLE}")
    source, target = (
        side if isinstance(side, str) else _listed(side, f"pair {number}: the {name}")
        for side, name in zip(pair, ("source", "target"), strict=True)
    )
    return (
        split(source) if isinstance(source, str) else source,
        split(target) if isinstance(target, str) else target,
    )


def _listed(side: object, name: str) -> Sequence[str]:
    if not isinstance(side, Sequence) or isinstance(side, (bytes, bytearray)):
        raise ValueError(f"{name} is {_shown(side)}; give a string, or a list of words")
    for word in side:
        if not isinstance(word, str):
            raise ValueError(f"{name} has the word {_shown(word)}; words are strings")
    return side


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_EXAMPLE = '[("the house", "das Haus")]'
