"""Classification of sentence pairs: one label for both sentences in one sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerBase

from pipeline.finetune.files.read_pairs import SentencePair, read_pairs
from pipeline.finetune.tasks.scores import accuracy
from pipeline.finetune.tasks.task import Features, Scores, Settings, Task


class Classification(Task[SentencePair, str]):
    """See the module."""

    kind, suffix, headline = "classify", "tsv", "accuracy"
    model = AutoModelForSequenceClassification
    defaults = Settings(epochs=5, learning_rate=2e-5, batch=32, max_length=128, stride=0)

    @property
    def name(self) -> str:
        return "pawsx" if self.labels == ["0", "1"] else "xnli"

    def read(self, path: Path) -> list[SentencePair]:
        return read_pairs(path)

    def learn(self, path: Path, items: Sequence[SentencePair]) -> None:
        if not self.labelled(items):
            raise ValueError(f"{path}: has no labels to train on; give sentence1, sentence2 and label, tabs apart")
        self.labels = sorted({pair.label for pair in items if pair.label is not None})
        if len(self.labels) < 2:
            raise ValueError(f"{path}: all labels are {self.labels[0]!r}; there is nothing to tell apart")

    def check(self, path: Path, items: Sequence[SentencePair]) -> list[str]:
        for pair in items:
            if pair.label is not None and pair.label not in self.labels:
                raise ValueError(
                    f"{path}: line {pair.line}: label {pair.label!r} is not one of the training data's: "
                    f"{', '.join(self.labels)}"
                )
        return []

    def labelled(self, items: Sequence[SentencePair]) -> bool:
        return all(pair.label is not None for pair in items)

    def features(
        self, items: Sequence[SentencePair], tokenizer: PreTrainedTokenizerBase, settings: Settings, with_labels: bool
    ) -> Features:
        features = Features()
        sides = [pair.first for pair in items], [pair.second for pair in items]
        whole = tokenizer(*sides)["input_ids"]
        encoded = tokenizer(*sides, truncation="longest_first", max_length=settings.max_length)
        features.note("pairs cut at the longest side", sum(len(ids) > settings.max_length for ids in whole))
        for index, pair in enumerate(items):
            row = {name: encoded[name][index] for name in ("input_ids", "attention_mask")}
            if with_labels:
                assert pair.label is not None, "checked when it was read"
                row["labels"] = self.labels.index(pair.label)
            features.add(row, index)
        return features

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return DataCollatorWithPadding(tokenizer)

    def reduce(self, logits: Any, labels: Any) -> Any:
        return logits.argmax(dim=-1)

    def predictions(self, items: Sequence[SentencePair], features: Features, outputs: Any) -> list[str]:
        labels = [""] * len(items)
        for index, label in zip(features.places, outputs, strict=True):
            labels[index] = self.labels[int(label)]
        return labels

    def score(self, items: Sequence[SentencePair], predictions: Sequence[str]) -> Scores:
        return {"accuracy": accuracy([pair.label or "" for pair in items], predictions)}

    def text(self, items: Sequence[SentencePair], predictions: Sequence[str]) -> str:
        return "".join(f"{label}\n" for label in predictions)
