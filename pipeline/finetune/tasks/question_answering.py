"""Extractive question answering: the span of the context that answers the question.

A context that does not fit beside its question is cut into windows that share `stride` tokens; the answer is the best
span of all windows. A question of more than `QUESTION_TOKENS` tokens is cut, as in XTREME.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedTokenizerBase

from pipeline.finetune.files.read_squad import Question, check_answers, read_squad
from pipeline.finetune.tasks.scores import answer_f1, exact_match
from pipeline.finetune.tasks.task import Features, Scores, Settings, Task

QUESTION_TOKENS = 64
ANSWER_TOKENS = 30
"""Tokens of the longest answer."""
CANDIDATES = 20
"""Starts, and ends, of each window that are tried."""
SPECIAL_TOKENS = 4
"""<s> question </s> </s> context </s>"""


class QuestionAnswering(Task[Question, str]):
    """See the module."""

    kind, suffix, name, headline = "qa", "json", "xquad", "f1"
    model = AutoModelForQuestionAnswering
    defaults = Settings(epochs=3, learning_rate=3e-5, batch=32, max_length=384, stride=128)

    def read(self, path: Path) -> list[Question]:
        return read_squad(path)

    def learn(self, path: Path, items: Sequence[Question]) -> None:
        check_answers(path, items)
        self.labels = []

    def check(self, path: Path, items: Sequence[Question]) -> list[str]:
        return []

    def labelled(self, items: Sequence[Question]) -> bool:
        return all(item.answers for item in items)

    def features(
        self, items: Sequence[Question], tokenizer: PreTrainedTokenizerBase, settings: Settings, with_labels: bool
    ) -> Features:
        if settings.max_length < QUESTION_TOKENS + SPECIAL_TOKENS + settings.stride + 1:
            raise ValueError(
                f"--max-length {settings.max_length}: too short for a question of {QUESTION_TOKENS} tokens and windows "
                f"that share {settings.stride}; give at least {QUESTION_TOKENS + SPECIAL_TOKENS + settings.stride + 1}"
            )
        features = Features()
        questions = [_short(tokenizer, item.question, features) for item in items]
        encoded = tokenizer(
            questions,
            [item.context for item in items],
            truncation="only_second",
            max_length=settings.max_length,
            stride=settings.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows = np.bincount(encoded["overflow_to_sample_mapping"], minlength=len(items))
        features.note("contexts cut into windows", int((windows > 1).sum()))
        for number, index in enumerate(encoded["overflow_to_sample_mapping"]):
            row = {name: encoded[name][number] for name in ("input_ids", "attention_mask")}
            # characters of the context that every token covers; (-1, -1) for what is no context
            offsets = [
                offset if part == 1 else (-1, -1)
                for offset, part in zip(encoded["offset_mapping"][number], encoded.sequence_ids(number), strict=True)
            ]
            if with_labels:
                row["start_positions"], row["end_positions"] = _answer_tokens(items[index], offsets)
            features.add(row, (index, offsets))
        return features

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return DataCollatorWithPadding(tokenizer)

    def reduce(self, logits: Any, labels: Any) -> Any:
        return logits

    def predictions(self, items: Sequence[Question], features: Features, outputs: Any) -> list[str]:
        best = [(-np.inf, "")] * len(items)
        for (index, offsets), start_L, end_L in zip(features.places, *outputs, strict=True):
            found = best_span(start_L[: len(offsets)], end_L[: len(offsets)], offsets)
            if found is not None and found[0] > best[index][0]:
                best[index] = found[0], items[index].context[found[1] : found[2]].strip()
        return [answer for _, answer in best]

    def score(self, items: Sequence[Question], predictions: Sequence[str]) -> Scores:
        both = list(zip(items, predictions, strict=True))
        exact = sum(exact_match(answer, item.answers) for item, answer in both)
        f1 = sum(answer_f1(answer, item.answers) for item, answer in both)
        return {"exact_match": 100 * exact / len(items), "f1": 100 * f1 / len(items)}

    def text(self, items: Sequence[Question], predictions: Sequence[str]) -> str:
        answers = {item.id: answer for item, answer in zip(items, predictions, strict=True)}
        return json.dumps(answers, ensure_ascii=False, indent=1) + "\n"


def best_span(
    start_L: NDArray[Any], end_L: NDArray[Any], offsets: Sequence[tuple[int, int]]
) -> tuple[float, int, int] | None:
    """(score, first character, end) of a window's best span of the context, or None where it has no context.

    start_L, end_L: logits of a token being the answer's first and last.
    """
    inside = np.array([first >= 0 for first, _ in offsets])
    starts, ends = (
        [i for i in np.argsort(-np.where(inside, logit_L, -np.inf), kind="stable")[:CANDIDATES] if inside[i]]
        for logit_L in (start_L, end_L)
    )
    spans = [
        (float(start_L[i]) + float(end_L[j]), offsets[i][0], offsets[j][1])
        for i in starts
        for j in ends
        if i <= j < i + ANSWER_TOKENS
    ]
    return max(spans, key=lambda span: span[0], default=None)


def _short(tokenizer: PreTrainedTokenizerBase, question: str, features: Features) -> str:
    offsets = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= QUESTION_TOKENS:
        return question
    features.note(f"questions cut after {QUESTION_TOKENS} tokens")
    return question[: offsets[QUESTION_TOKENS - 1][1]]


def _answer_tokens(item: Question, offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """First and last token of the answer; (0, 0), which is <s>, where the window does not hold all of it."""
    begin, end = item.start, item.start + len(item.answers[0])
    tokens = [i for i, (first, last) in enumerate(offsets) if first >= 0 and last > begin and first < end]
    if not tokens or offsets[tokens[0]][0] > begin or offsets[tokens[-1]][1] < end:
        return 0, 0
    return tokens[0], tokens[-1]
