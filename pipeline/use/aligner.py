"""The word aligner as a library: a model folder in, the word links of sentence pairs out.

    from pipeline.use.aligner import Aligner
    aligner = Aligner.load("hf/base", layer=8)
    aligner.align([("the house", "das Haus")])  # [[(0, 0), (1, 1)]]

Puts a model, a tokenizer and `WordAligner` together; the command `align` is this class and a file reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from data_prep.tokenizer import UNK, Tokenizer
from pipeline.model import Encoder
from pipeline.packing import Packed
from pipeline.use.align_options import WINDOW, AlignOptions, Encoding, Method, resolve
from pipeline.use.loading import DTYPES, load, longest_side
from pipeline.use.sentence_pairs import split_words
from pipeline.use.word_alignment import (
    BATCH_TOKENS,
    AlignmentReport,
    ScoredLinks,
    WordAligner,
    WordLinks,
)
from sinkhorn_align import AlignmentSettings

TextPair = tuple[str | Sequence[str], str | Sequence[str]]
"""Two sides; a string is split at white space."""


class ReleasedPieces:
    """Pieces of words as the released aligner takes them: SentencePiece's as they come, a lone space piece included.

    `Tokenizer.encode_words` drops that piece, which links better.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        ids = [self._tokenizer.encode(word) or [UNK] for word in words]
        return [i for of_word in ids for i in of_word], [word for word, of_word in enumerate(ids) for _ in of_word]


class Aligner:
    """A model that aligns words at one layer; `report` counts what happened so far, `options` has what was taken and why."""

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        layer: int | None = None,
        *,
        method: Method | None = None,
        encoding: Encoding | None = None,
        settings: AlignmentSettings | None = None,
        recorded: AlignOptions | None = None,
        keep_space_pieces: bool = False,
        window: int = WINDOW,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Arguments are those of `WordAligner`, and:

        layer: whose hidden states are aligned, 0 the embeddings.
        recorded: what is taken for layer, method, encoding and settings that are None, see `align_options.resolve`.
        keep_space_pieces: see `ReleasedPieces`.
        """
        self.options = resolve(
            encoder.config.layers, recorded, layer=layer, method=method, encoding=encoding, settings=settings
        )
        self.layer = self.options.layer
        device = next(encoder.parameters()).device

        def hidden_states(packed: Packed) -> list[torch.Tensor]:
            return [encoder(packed.to(device), self.layer)]

        self._aligner = WordAligner(
            ReleasedPieces(tokenizer) if keep_space_pieces else tokenizer,
            hidden_states,
            self.options.settings,
            method=self.options.method,
            encoding=self.options.encoding,
            longest_side=longest_side(encoder.config, self.options.encoding),
            window=window,
            batch_tokens=batch_tokens,
            side_by_side=device.type == "cpu",
        )

    @classmethod
    def load(
        cls,
        folder: str | Path,
        layer: int | None = None,
        *,
        tokenizer_dir: str | Path | None = None,
        dtype: str = "fp32",
        device: str | torch.device = "cpu",
        method: Method | None = None,
        encoding: Encoding | None = None,
        settings: AlignmentSettings | None = None,
        keep_space_pieces: bool = False,
        window: int = WINDOW,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Aligner:
        """Load a Hugging Face folder, a run folder or a checkpoint; ValueError says what is wrong with it.

        layer, method, encoding, settings: None: what was recorded with the model, or what suits a plain checkpoint.
        """
        if dtype not in DTYPES:
            raise ValueError(f"--dtype {dtype}: choose {' or '.join(DTYPES)}")
        try:
            place = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {device}: {str(error).splitlines()[0]}; choose cpu") from None
        loaded = load(Path(folder), None if tokenizer_dir is None else Path(tokenizer_dir))
        return cls(
            loaded.encoder.to(place, DTYPES[dtype]),
            loaded.tokenizer,
            layer,
            method=method,
            encoding=encoding,
            settings=settings,
            recorded=loaded.recorded,
            keep_space_pieces=keep_space_pieces,
            window=window,
            batch_tokens=batch_tokens,
        )

    @property
    def report(self) -> AlignmentReport:
        return self._aligner.report

    def align(self, pairs: Iterable[TextPair]) -> list[WordLinks]:
        """The links (source word, target word) of every pair, from 0, sorted."""
        return [list(links) for links in self._links(pairs, scored=False)]

    def align_scored(self, pairs: Iterable[TextPair]) -> list[ScoredLinks]:
        """`align` with every link's score: the largest cosine of two of its subwords' hidden states."""
        return list(self._links(pairs, scored=True))

    def stream(self, pairs: Iterable[TextPair], scored: bool = False) -> Iterator[ScoredLinks]:
        """Links and scores (0 unless `scored`) pair by pair, as they come; memory does not grow with their number."""
        return self._links(pairs, scored)

    def similarities(self, pair: TextPair) -> list[list[float]]:
        """The largest cosine of two subwords' hidden states for every source (row) and target word, for a picture.

        ValueError where a side has no words or is too long to be encoded whole.
        """
        rows: list[list[float]] = self._aligner.similarities((_words(pair[0]), _words(pair[1]))).tolist()
        return rows

    def _links(self, pairs: Iterable[TextPair], scored: bool) -> Iterator[ScoredLinks]:
        words = ((_words(source), _words(target)) for source, target in pairs)
        return (links for (links,) in self._aligner.links_by_layer(words, scored))


def _words(side: str | Sequence[str]) -> Sequence[str]:
    return split_words(side) if isinstance(side, str) else side
