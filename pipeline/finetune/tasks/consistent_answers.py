"""Question answering with xTune's consistency: where the answer begins and ends in a context, and in that said otherwise.

As released: the question stays as it is; the first and the last word of the answer too, so that both views have the tokens
with which it begins and ends; compared are the probabilities of <s>, of unchanged words' tokens, and of all others together.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pipeline.finetune.consistency import Span, answers_agree, answers_of_model
from pipeline.finetune.files.read_squad import Question
from pipeline.finetune.tasks.consistent import Consistent, Saying, encode_apart
from pipeline.finetune.tasks.question_answering import QuestionAnswering
from pipeline.finetune.tasks.views import AUGMENTED, OTHER, PLACES, View

WORD = re.compile(r"\S+")
MASK = "attention_mask"
Place = tuple[int, Sequence[tuple[int, int]]]


class ConsistentQuestionAnswering(Consistent, QuestionAnswering):
    """See the module."""

    def encode(self, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[list[int]]:
        return encode_apart(tokenizer, words)

    def as_it_is(self, row: dict[str, Any], place: Place) -> View:
        inside = [token for token, (first, _) in enumerate(place[1]) if first >= 0]
        return View(dict(row), {token: token for token in [0, *inside]})

    def otherwise(
        self, item: Question, row: dict[str, Any], place: Place, draw: random.Random, saying: Saying, as_item: bool
    ) -> View:
        spans = [found.span() for found in WORD.finditer(item.context)]
        ends = [end for _, end in spans]
        word_of = {token: bisect_right(ends, last - 1) for token, (first, last) in enumerate(place[1]) if first >= 0}
        numbers = [number for number in dict.fromkeys(word_of.values()) if number < len(spans)]
        words = [item.context[slice(*spans[number])] for number in numbers]
        augmentation = self.consistency.augmentation
        found = augmentation.changes(words, draw, saying.encode)
        kept = _kept(item, spans, whole=as_item and augmentation.translates)
        changes = {numbers[at]: pieces for at, pieces in found.items() if numbers[at] not in kept}
        return _changed(row, word_of, changes, saying.settings.max_length)

    def of_views(self, outputs: Any, again: Any, batch: dict[str, Tensor]) -> Tensor | None:
        masks = batch[MASK].bool(), batch[f"{OTHER}{MASK}"].bool()
        return answers_agree(_span(outputs), _span(again), masks, (batch[PLACES], batch[f"{OTHER}{PLACES}"]))

    def of_models(self, outputs: Any, taught: Any, batch: dict[str, Tensor]) -> Tensor | None:
        rows = batch[AUGMENTED]
        said, wanted = ((each[0][rows], each[1][rows]) for each in (_span(outputs), _span(taught)))
        return answers_of_model(said, wanted, batch[MASK][rows].bool(), self.consistency.hard_labels)

    def described(self) -> dict[str, Any]:
        told = super().described()
        del told["consistency"]["mean"]  # there is one alone
        return told


def _span(outputs: Any) -> Span:
    return outputs.start_logits, outputs.end_logits


def _kept(item: Question, spans: Sequence[tuple[int, int]], whole: bool) -> set[int]:
    """The first and the last word of the answer, or all of them."""
    begin, end = item.start, item.start + len(item.answers[0])
    of_answer = [number for number, (first, last) in enumerate(spans) if last > begin and first < end]
    return set(of_answer if whole else of_answer[:1] + of_answer[-1:])


def _changed(row: dict[str, Any], word_of: dict[int, int], changes: dict[int, list[int]], max_length: int) -> View:
    """A row whose context has other pieces of some words, cut where it gets too long.

    word_of: of every token of the context.
    """
    ids: list[int] = row["input_ids"]
    tokens = list(word_of)
    before, after = ids[: tokens[0]], ids[tokens[-1] + 1 :]
    context: list[int] = []
    places = {0: 0}
    for at, token in enumerate(tokens):
        word = word_of[token]
        if word not in changes:
            places[token] = len(before) + len(context)
            context.append(ids[token])
        elif at == 0 or word_of[tokens[at - 1]] != word:
            context += changes[word]
    length = min(len(before) + len(context), max_length - len(after))
    made = [*before, *context][:length] + after
    places = {token: place for token, place in places.items() if place < length}
    start, end = row["start_positions"], row["end_positions"]
    answer = (places[start], places[end]) if start in places and end in places else (0, 0)
    changed = {"input_ids": made, MASK: [1] * len(made), "start_positions": answer[0], "end_positions": answer[1]}
    return View(row | changed, places)
