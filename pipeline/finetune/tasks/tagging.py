"""Tagging: a tag for every word, POS or entities.

Words are encoded one by one. The first subword of a word carries its tag, the others carry none; what the head sees there is
that subword, or the sum of the word's subwords. A sentence that is too long is
cut into windows of whole words that overlap by about half; a word's tag is taken from the window where it is farther from
the edge, so that every word has exactly one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedTokenizerBase

from pipeline.finetune.files.read_tagged import Sentence, read_tagged
from pipeline.finetune.tasks.scores import accuracy, span_f1
from pipeline.finetune.tasks.summed_subwords import STARTS, SummedSubwords, collator_with_starts
from pipeline.finetune.tasks.task import Features, Scores, Settings, Task

NO_LABEL = -100
"""What the loss leaves out."""
SPACE_PIECE = "▁"
FIRST, SUM = "first", "sum"
SUBWORDS = (FIRST, SUM)
Window = tuple[int, int, int, int]
"""First word and end of a window, and of the words in it that are its own."""


class Place(NamedTuple):
    """What a row is of."""

    item: int
    place_of: dict[int, int]
    """Of the row's own words, by their number in the sentence: where the first subword stands."""
    window: tuple[int, int]
    """The first word of the row, and the end."""


@dataclass(frozen=True)
class TaggingSettings(Settings):
    """Of this task alone."""

    subwords: str = FIRST
    """What a word is to the head, one of `SUBWORDS`."""


class Tagging(Task[Sentence, list[str]]):
    """See the module."""

    kind, suffix = "tag", "tsv"
    model = AutoModelForTokenClassification
    defaults = TaggingSettings(epochs=10, learning_rate=2e-5, batch=32, max_length=128, stride=0)

    @property
    def entities(self) -> bool:
        """Whether the tags mark spans: B-PER, I-PER, O."""
        return any(label.startswith(("B-", "I-")) for label in self.labels)

    @property
    def name(self) -> str:
        return "panx" if self.entities else "udpos"

    @property
    def headline(self) -> str:
        return "f1" if self.entities else "accuracy"

    def read(self, path: Path) -> list[Sentence]:
        return read_tagged(path)

    def learn(self, path: Path, items: Sequence[Sentence]) -> None:
        if not self.labelled(items):
            raise ValueError(f"{path}: has no tags to train on; give token, tab and tag a line")
        self.labels = sorted({tag for sentence in items for tag in sentence.tags or []})

    def check(self, path: Path, items: Sequence[Sentence]) -> list[str]:
        if not any(sentence.words for sentence in items):
            raise ValueError(f"{path}: no words among the chosen sentences")
        tags = [tag for sentence in items for tag in sentence.tags or []]
        unknown = [tag for tag in tags if tag not in self.labels]
        if 2 * len(unknown) > len(tags):
            raise ValueError(
                f"{path}: most words have tags that the training data lacks, such as {unknown[0]!r}; "
                f"it has {', '.join(self.labels)}"
            )
        if not unknown:
            return []
        names = ", ".join(sorted(set(unknown)))
        return [f"{path}: {len(unknown)} words have tags that training lacks and count as wrong: {names}"]

    def labelled(self, items: Sequence[Sentence]) -> bool:
        return all(sentence.tags is not None for sentence in items)

    def features(
        self, items: Sequence[Sentence], tokenizer: PreTrainedTokenizerBase, settings: Settings, with_labels: bool
    ) -> Features:
        features = Features()
        room = settings.max_length - 2
        for index, sentence in enumerate(items):
            words = [pieces[:room] for pieces in encode_words(tokenizer, sentence.words)]
            windows = list(cut([len(word) for word in words], room))
            if len(windows) > 1:
                features.note("long sentences, tagged by windows")
            for first, end, own_first, own_end in windows:
                row, starts = self.row_of(words[first:end], tokenizer, settings)
                place_of = {
                    word: at for word, at in zip(range(first, end), starts, strict=True) if own_first <= word < own_end
                }
                if with_labels:
                    row["labels"] = self.labels_of(sentence, place_of, len(row["input_ids"]))
                features.add(row, Place(index, place_of, (first, end)))
        return features

    def row_of(
        self, words: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, settings: Settings
    ) -> tuple[dict[str, Any], list[int]]:
        """A row of words, given by their pieces, and where each of them begins."""
        ids = [tokenizer.bos_token_id, *chain(*words), tokenizer.eos_token_id]
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        starts = list(accumulate((len(word) for word in words), initial=1))[:-1]
        if _sums(settings):
            inside = ([at] * len(word) for at, word in zip(starts, words, strict=True))
            row[STARTS] = [0, *chain(*inside), len(ids) - 1]
        return row, starts

    def labels_of(self, sentence: Sentence, place_of: dict[int, int], length: int) -> list[int]:
        """Of a window's tokens: its own words' tags at their first subwords. A tag that training lacks has no number."""
        assert sentence.tags is not None, "checked when it was read"
        labels = [NO_LABEL] * length
        for word, place in place_of.items():
            if sentence.tags[word] in self.labels:
                labels[place] = self.labels.index(sentence.tags[word])
        return labels

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        usual = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=NO_LABEL)
        with_starts = collator_with_starts(usual)
        return lambda rows: with_starts(rows) if STARTS in rows[0] else usual(rows)

    def built_by(self, settings: Settings) -> Any:
        return SummedSubwords if _sums(settings) else self.model

    def reduce(self, logits: Any, labels: Any) -> Any:
        return logits.argmax(dim=-1)

    def predictions(self, items: Sequence[Sentence], features: Features, outputs: Any) -> list[list[str]]:
        tags = [[""] * len(sentence.words) for sentence in items]
        for row, label_L in zip(features.places, outputs, strict=True):
            for word, place in row.place_of.items():
                tags[row.item][word] = self.labels[int(label_L[place])]
        assert all(all(of_sentence) for of_sentence in tags), "every word is some window's own"
        return tags

    def score(self, items: Sequence[Sentence], predictions: Sequence[list[str]]) -> Scores:
        gold = [sentence.tags or [] for sentence in items]
        flat = [[tag for tags in side for tag in tags] for side in (gold, predictions)]
        return {"accuracy": accuracy(*flat), "f1": span_f1(gold, predictions)}

    def text(self, items: Sequence[Sentence], predictions: Sequence[list[str]]) -> str:
        return "\n".join("".join(f"{tag}\n" for tag in tags) for tags in predictions)


def _sums(settings: Settings) -> bool:
    return isinstance(settings, TaggingSettings) and settings.subwords == SUM


def encode_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
    """Ids of every word by itself, as `data_prep.tokenizers.tokenizer.Tokenizer.encode_words` makes them.

    A lone space piece before others is dropped, and a word that normalises to nothing becomes `<unk>`.
    """
    if not words:
        return []
    space = tokenizer.convert_tokens_to_ids(SPACE_PIECE)
    encoded = tokenizer(list(words), add_special_tokens=False)["input_ids"]
    return [
        (pieces[1:] if len(pieces) > 1 and pieces[0] == space else pieces) or [tokenizer.unk_token_id]
        for pieces in encoded
    ]


def cut(lengths: Sequence[int], room: int) -> Iterator[Window]:
    """Windows of whole words of at most `room` tokens, each beginning about half a window after the one before.

    lengths: tokens of every word, at most `room` each. Every word is the own one of exactly one window; none for no word.
    """
    bounds: list[tuple[int, int]] = []
    first = 0
    while first < len(lengths):
        end, tokens = first, 0
        while end < len(lengths) and tokens + lengths[end] <= room:
            tokens += lengths[end]
            end += 1
        if not bounds or end > bounds[-1][1]:
            bounds.append((first, end))
        if end == len(lengths):
            break
        tokens, start = 0, first
        while first == start or (first < end and tokens < room / 2):
            tokens += lengths[first]
            first += 1
    for k, (first, end) in enumerate(bounds):
        own_first = (first + bounds[k - 1][1]) // 2 if k else 0
        own_end = (bounds[k + 1][0] + end) // 2 if k + 1 < len(bounds) else len(lengths)
        yield first, end, own_first, own_end
