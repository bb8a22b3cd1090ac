"""Texts in, texts out: a model, a search, and batches of like lengths, in the order of the input and in bounded memory.

Knows texts that come one by one; nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import torch

from pipeline.generate.model import TextModel, load_text_model
from pipeline.generate.search import Found, Search, Words, search
from pipeline.model.devices import AUTO, Place, choose_place

BATCH_TOKENS = 4096
HYPOTHESES = 320
"""That are followed at once, at most: each has a score for every word of the vocabulary."""
FIRST_WINDOW, WINDOW = 32, 1024
"""Texts that are read ahead to be sorted by length: at first, and at most."""


@dataclass(frozen=True)
class Hypothesis:
    """A text that was written, its score (see `Search`) and how many tokens it has, `</s>` included."""

    text: str
    score: float
    tokens: int


NOTHING = Hypothesis("", 0.0, 0)
"""What is written of a text without words."""


@dataclass(frozen=True)
class Written:
    """What was read and what was written of it, the best first. Of a text without words it is one without words."""

    source: str
    hypotheses: list[Hypothesis]

    @property
    def text(self) -> str:
        return self.hypotheses[0].text


@dataclass
class Counts:
    """What was done, and what a user may not expect."""

    lines: int = 0
    cut: int = 0
    first_cut: int = 0  # counted from 1
    unended: int = 0  # best hypotheses that ended for want of room
    tokens: int = 0  # of the best hypotheses


@dataclass
class Generator:
    """Writes texts with a model; see `load`.

    to: the language to write, None where the model has no tags of languages.
    words_of: only pieces of these texts may be written; None: all pieces.
    batch_tokens: of the sources of a batch, padding included.
    """

    model: TextModel
    how: Search = field(default_factory=Search)
    to: str | None = None
    words_of: Sequence[str] | None = None
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        self.model.check_language(self.to)
        room = self.model.longest_target - 1
        if self.how.max_tokens > room:
            self.how = replace(self.how, max_tokens=room)
        device = next(self.model.module.parameters()).device
        allowed_V = self.model.writable(self.words_of).to(device)
        if int(allowed_V.sum()) < 2:  # `</s>` and a piece
            raise ValueError("--words-of: has no piece that could be written; give a text of the language to write")
        self._words = Words(self.model.padding, self.model.end, allowed_V)
        self.counts = Counts()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        to: str | None = None,
        how: Search | None = None,
        *,
        words_of: Sequence[str] | None = None,
        batch_tokens: int = BATCH_TOKENS,
        dtype: str = AUTO,
        device: str | torch.device = AUTO,
    ) -> Generator:
        """Load what `load_text_model` takes; ValueError says what is wrong with it. dtype, device: see `choose_place`."""
        place = choose_place(device, dtype)
        model = load_text_model(Path(folder))
        model.module.to(device=place.device, dtype=place.dtype)
        return cls(model, how or Search(), to, words_of, batch_tokens)

    @property
    def place(self) -> str:
        """Where it runs, in words."""
        first = next(self.model.module.parameters())
        return str(Place(first.device, first.dtype))

    def generate(self, texts: Iterable[str]) -> list[Written]:
        """What is written of every text."""
        return [each for ready in self.stream(texts) for each in ready]

    def stream(self, texts: Iterable[str | None]) -> Iterator[list[Written]]:
        """`generate` by and by: after each batch what is ready in the order of the texts, which may be nothing.

        A None among the texts says that nothing more is there yet, so that what is there is to be worked on. What `texts`
        raises is raised after everything before it was given.
        """
        for window in _windows(texts):
            yield from self._window(window)

    def _window(self, texts: list[str]) -> Iterator[list[Written]]:
        encoded = self.model.encode(texts)
        rows = [self.model.source(ids, self.to) for ids in encoded]
        self._note_cut(encoded)
        found = [None if ids else Written(text, [NOTHING]) for text, ids in zip(texts, encoded, strict=True)]
        self.counts.lines += sum(each is not None for each in found)
        given = 0
        for batch in self._batches(rows, [at for at, each in enumerate(found) if each is None]):
            for at, hypotheses in zip(batch, self._write([rows[at] for at in batch]), strict=True):
                found[at] = Written(texts[at], hypotheses)
            self.counts.lines += len(batch)
            ready = list(takewhile(lambda each: each is not None, found[given:]))
            given += len(ready)
            yield [each for each in ready if each is not None]
        yield [each for each in found[given:] if each is not None]

    def _note_cut(self, encoded: Sequence[Sequence[int]]) -> None:
        room = self.model.longest_source - self.model.special(self.to)
        cut = [at for at, ids in enumerate(encoded, start=self.counts.lines + 1) if len(ids) > room]
        if cut:
            self.counts.first_cut = self.counts.first_cut or cut[0]
            self.counts.cut += len(cut)

    def _batches(self, rows: Sequence[Sequence[int]], places: Sequence[int]) -> Iterator[list[int]]:
        """Places of rows that are searched together, the longest first: memory that is enough once is enough."""
        batch: list[int] = []
        for at in sorted(places, key=lambda at: -len(rows[at])):
            count = len(batch) + 1
            longest = len(rows[batch[0]]) if batch else 0
            if batch and (count * longest > self.batch_tokens or count * self.how.beam > HYPOTHESES):
                yield batch
                batch = []
            batch.append(at)
        if batch:
            yield batch

    def _write(self, rows: list[list[int]]) -> list[list[Hypothesis]]:
        found = search(self.model.module, rows, [self.model.start(self.to)] * len(rows), self.how, self._words)
        if not all(found):
            raise ValueError(f"{self.model.folder}: gives scores that are no numbers {self.place}; take --dtype fp32")
        self.counts.unended += sum(not of_row[0].ended for of_row in found)
        self.counts.tokens += sum(_tokens(of_row[0]) for of_row in found)
        return [
            [Hypothesis(self.model.text(each.ids), each.score, _tokens(each)) for each in of_row] for of_row in found
        ]


def _tokens(found: Found) -> int:
    return len(found.ids) + found.ended


def _windows(texts: Iterable[str | None]) -> Iterator[list[str]]:
    """Texts by as many as are sorted together, fewer where a None says so or `texts` raises."""
    window: list[str] = []
    most = FIRST_WINDOW
    problem: ValueError | None = None
    reading = iter(texts)
    while True:
        try:
            text = next(reading)
        except StopIteration:
            break
        except ValueError as error:
            problem = error
            break
        if text is not None:
            window.append(text)
        if window and (text is None or len(window) == most):
            yield window
            window, most = [], min(2 * most, WINDOW)
    if window:
        yield window
    if problem is not None:
        raise problem
