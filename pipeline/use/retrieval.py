"""Sentence retrieval: whether the nearest sentence of the other language, by cosine of mean hidden states, is the translation.

Reads the layouts of PUD and Tatoeba; knows a tokenizer and something that gives hidden states, nothing of training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.tokenizer import BOS, EOS
from pipeline.packing import pack
from pipeline.use.word_alignment import HiddenStates

PIVOT = ("en", "eng")
"""The language that all others are paired with in a folder with a file a language, where it is there."""
POOLING = "mean over all tokens of the sentence, <s> and </s> among them; cosine"
ROWS_AT_ONCE = 1024
"""Sentences whose similarities to all of the other side are in memory at once."""
_PAIR_FILE = re.compile(r"(?:.*\.)?(?P<first>[^.-]+)-(?P<second>[^.-]+)\.(?P<language>[^.-]+)")


class SentenceEncoder(Protocol):
    """What is asked of a tokenizer: the ids of a sentence, without special tokens."""

    def encode(self, text: str) -> list[int]: ...


@dataclass
class Sentences:
    """Line-aligned sentences of two languages."""

    languages: tuple[str, str]
    paths: tuple[Path, Path]
    texts: tuple[list[str], list[str]] | None = None
    """What the files hold, where they need not be read again."""

    @property
    def name(self) -> str:
        return "-".join(self.languages)

    def loaded(self, most: int) -> Sentences:
        """With the first `most` sentences in memory. Raises as `read` does."""
        first, second = self.read()
        return replace(self, texts=(first[:most], second[:most]))

    def read(self) -> tuple[list[str], list[str]]:
        """ValueError where a file is missing, empty, no UTF-8, or the two have unequal lines."""
        if self.texts is not None:
            return self.texts
        first, second = (_lines(path) for path in self.paths)
        if len(first) != len(second):
            raise ValueError(
                f"{self.paths[0]}: {len(first)} lines, {self.paths[1]} has {len(second)}; "
                "line n of one must be the translation of line n of the other"
            )
        return first, second


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


def find_pairs(place: Path) -> list[Sentences]:
    """The language pairs of a folder, in PUD's layout or in Tatoeba's.

    PUD: `<name>.<language>`, a file a language, all line-aligned: English (or the first language) with every other.
    Tatoeba: `[<name>.]<first>-<second>.<first>` and `….<second>`, two files a pair. A file of such a pair or of PUD's
    stands for its pair alone.

    Raises:
        ValueError: there is no such folder, or it holds neither.
    """
    if not place.exists():
        raise ValueError(f"{place}: no such folder; give line-aligned files <name>.<language> or <a>-<b>.<language>")
    folder = place if place.is_dir() else place.parent
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name.count(".") >= 1)
    pairs = list(_tatoeba(files)) or list(_pud(files))
    if not place.is_dir():
        pairs = [pair for pair in pairs if place in pair.paths]
    if not pairs:
        raise ValueError(f"{place}: no line-aligned files; name them <name>.<language>, or <a>-<b>.<a> and <a>-<b>.<b>")
    return pairs


def _tatoeba(files: Sequence[Path]) -> Iterator[Sentences]:
    present = set(files)
    for path in files:
        match = _PAIR_FILE.fullmatch(path.name)
        if match is None or match["language"] != match["first"]:
            continue
        other = path.with_suffix(f".{match['second']}")
        if other in present:
            yield Sentences((match["first"], match["second"]), (path, other))


def _pud(files: Sequence[Path]) -> Iterator[Sentences]:
    by_stem: dict[str, dict[str, Path]] = {}
    for path in files:
        if path.suffix != ".txt":
            by_stem.setdefault(path.stem, {})[path.suffix[1:]] = path
    for languages in by_stem.values():
        if len(languages) < 2:
            continue
        pivot = next((name for name in PIVOT if name in languages), min(languages))
        for language, path in sorted(languages.items()):
            if language != pivot:
                yield Sentences((pivot, language), (languages[pivot], path))


def _lines(path: Path) -> list[str]:
    lines = path.read_bytes().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: is empty; give a sentence a line")
    try:
        return [line.decode().rstrip("\r") for line in lines]
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8; convert it") from None


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
        ids = [[BOS, *self._tokenizer.encode(sentence), EOS] for sentence in sentences]
        self.cut += sum(len(of_one) > self._longest for of_one in ids)
        ids = [of_one if len(of_one) <= self._longest else [*of_one[: self._longest - 1], EOS] for of_one in ids]
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
