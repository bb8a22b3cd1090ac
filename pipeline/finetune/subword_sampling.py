"""Words cut into other subwords: xTune's augmentation `ss`, SentencePiece's unigram sampling (Kudo, ACL 2018).

Any segmentation may be drawn, with a probability proportional to exp(alpha · the sum of its pieces' scores), by going backwards
through the lattice of them all. Own code, because SentencePiece draws from a generator that cannot be set to a place.
Knows Hugging Face's tokenizers; nothing of tasks or models.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.finetune.augmentation import Augmentation, Encode, Pieces

UNKNOWN_PENALTY = 10.0
"""SentencePiece's: a sign that no piece has scores so much less than the worst piece."""
UNIGRAM = "Unigram"
Cuts = list[tuple[list[tuple[int, int]], list[float]]]
"""By place: the pieces that end there, as (where it begins, id), and how probable each is, given that one ends there."""


class Lattice:
    """All ways to cut words into the pieces of a tokenizer, of which one may be drawn.

    alpha: see `SubwordSampling`.

    Raises:
        ValueError: the tokenizer is no unigram model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, alpha: float) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        model = {} if backend is None else json.loads(backend.to_str())["model"]
        if model.get("type") != UNIGRAM or model.get("byte_fallback"):
            kind = model.get("type", "another kind")
            raise ValueError(
                f"--subword-sampling: the model's tokenizer is {kind}, and sampling is of unigram models; leave it out"
            )
        special = set(tokenizer.all_special_ids)
        self._backend = backend
        self._pieces = {
            piece: (number, score) for number, (piece, score) in enumerate(model["vocab"]) if number not in special
        }
        self._longest = max(map(len, self._pieces))
        self._alpha = alpha
        self._cuts: dict[str, list[Cuts]] = {}
        self._unknown = int(model["unk_id"]), min(score for _, score in self._pieces.values()) - UNKNOWN_PENALTY

    def sample(self, word: str, draw: random.Random) -> Pieces:
        """The ids of a segmentation that is drawn; no id for what normalises to nothing."""
        if word not in self._cuts:
            self._cuts[word] = [self._cuts_of(part) for part in self._parts(word)]
        return [number for cuts in self._cuts[word] for number in self._drawn(cuts, draw)]

    def _parts(self, word: str) -> list[str]:
        """The word as the tokenizer normalises it, with its space; most have one part."""
        normal = self._backend.normalizer.normalize_str(word) if self._backend.normalizer else word
        return [part for part, _ in self._backend.pre_tokenizer.pre_tokenize_str(normal)] if normal else []

    def _cuts_of(self, text: str) -> Cuts:
        """For every place of the text the pieces that end there, and what the sums over all segmentations make of them."""
        sums = [0.0]  # log of the sum over all segmentations of the text before a place
        cuts: Cuts = [([], [])]
        for end in range(1, len(text) + 1):
            pieces, logs = [], []
            for begin in range(max(0, end - self._longest), end):
                found = self._pieces.get(text[begin:end], self._unknown if begin == end - 1 else None)
                if found is not None:
                    pieces.append((begin, found[0]))
                    logs.append(sums[begin] + self._alpha * found[1])
            largest = max(logs)
            sums.append(largest + math.log(sum(math.exp(each - largest) for each in logs)))
            cuts.append((pieces, [math.exp(each - sums[end]) for each in logs]))
        return cuts

    def _drawn(self, cuts: Cuts, draw: random.Random) -> Pieces:
        ids: Pieces = []
        place = len(cuts) - 1
        while place:
            pieces, weights = cuts[place]
            place, number = draw.choices(pieces, weights)[0] if len(pieces) > 1 else pieces[0]
            if number != self._unknown[0] or ids[-1:] != [number]:  # unknown signs in a row are one piece
                ids.append(number)
        return ids[::-1]


class SubwordSampling(Augmentation):
    """Draws for each word whether it is to be cut otherwise, and then how.

    alpha: 0 makes all segmentations alike probable; the larger, the more probable is the usual one. Published: 0.3.
    share: of the words.
    """

    def __init__(self, alpha: float, share: float) -> None:
        self._alpha, self._share = alpha, share
        self._lattice: Lattice | None = None

    def prepare(self, items: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> None:
        self._lattice = Lattice(tokenizer, self._alpha)

    def changes(self, words: Sequence[str], draw: random.Random, encode: Encode) -> dict[int, Pieces]:
        assert self._lattice is not None, "the tokenizer comes before the rows"
        sampled = {}
        for number, word in enumerate(words):
            if draw.random() < self._share:
                pieces = self._lattice.sample(word, draw)
                if pieces:  # what normalises to nothing stays as the task has it
                    sampled[number] = pieces
        return sampled

    def described(self) -> dict[str, Any]:
        return {"alpha": self._alpha, "share": self._share}
