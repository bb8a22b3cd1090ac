"""What every kind of task must say of itself; `run` and `training` know no task by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from data_prep.tokenizers.tokenizer import Tokenizer

Item = TypeVar("Item")
Prediction = TypeVar("Prediction")
Scores = dict[str, float]
"""Per cent by name of the metric."""


@dataclass(frozen=True)
class Settings:
    """How a model is fine-tuned."""

    epochs: float
    learning_rate: float
    batch: int
    """Rows of a step, on each device."""
    max_length: int
    """Tokens of a row, special tokens included."""
    stride: int
    """Question answering: tokens of the context that two windows share."""
    dropout: float = 0.1
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises, or from 1 on their number; it falls linearly to 0 after them."""
    weight_decay: float = 0.0
    """Of AdamW, on all weights but biases and norms."""
    eval_every: int | None = None
    """Steps between two evaluations on dev; None: an evaluation at the end of every epoch."""
    group_lengths: bool = False
    """Whether a batch has rows of like lengths, drawn as the Trainer groups them; otherwise of any."""
    freeze_embeddings: bool = False
    """Keep the word embeddings as they are."""
    bf16: bool = False
    on_cpu: bool = False
    """Whether the CPU is taken where there is a GPU."""
    report_to: tuple[str, ...] = ()


@dataclass
class Start(ABC):
    """What fine-tuning starts from."""

    tokenizer: PreTrainedTokenizerBase
    sentencepiece: Tokenizer | None
    """The same tokenizer as SentencePiece; None: it cannot be one, or it comes with Hugging Face's."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Tokens that fit the positions, special tokens included."""

    @property
    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """All tensors, by which it is known again."""

    @abstractmethod
    def model(self, kind: Any, labels: list[str], dropout: float) -> PreTrainedModel:
        """A model to be trained, whose fresh parts are drawn by PyTorch's seed; kind, labels: the task's `model`, `labels`."""


@dataclass
class Features:
    """Items as rows for the model; a long item may have several."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    """For every row what its outputs belong to; the task's own business."""
    notes: dict[str, int] = field(default_factory=dict)
    """How often what a user may not expect was done, by what it is."""

    def add(self, row: dict[str, Any], place: Any) -> None:
        self.rows.append(row)
        self.places.append(place)

    def note(self, what: str, times: int = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + times

    def dataset(self, seed: int) -> Any:
        """What is trained on; seed: the training's."""
        return Dataset.from_list(self.rows)

    def by_length(self) -> Features:
        """Rows of like lengths beside each other, so that little is padded."""
        order = sorted(range(len(self.rows)), key=lambda i: len(self.rows[i]["input_ids"]))
        return Features([self.rows[i] for i in order], [self.places[i] for i in order], self.notes)


class Task(ABC, Generic[Item, Prediction]):
    """A kind of task: its file format, its rows, its predictions and their scores."""

    kind: str
    suffix: str
    """Of prediction files."""
    model: Any
    """The class whose `from_config` builds the model with its head."""
    defaults: Settings
    labels: list[str]
    """All labels of the training data, sorted; empty for a task without labels."""

    def built_by(self, settings: Settings) -> Any:
        """The class whose `from_config` builds the model with these settings, and whose `from_pretrained` loads it."""
        return self.model

    @property
    @abstractmethod
    def name(self) -> str:
        """XTREME's data set that is most like this one."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The metric by which the best epoch is chosen."""

    @abstractmethod
    def read(self, path: Path) -> list[Item]:
        """Items of a file; ValueError for what is wrong with it."""

    def start(self, folder: Path, tokenizer_dir: Path | None) -> Start | None:
        """The model of a folder, with the tokenizer of another if that is given; None: an encoder, under a fresh head."""
        return None

    def of_language(self, items: Sequence[Item], language: str) -> list[Item]:
        """Items of a file of this language; most tasks need not know it."""
        return list(items)

    @abstractmethod
    def learn(self, path: Path, items: Sequence[Item]) -> None:
        """Take labels from training items; ValueError where some have none."""

    @abstractmethod
    def check(self, path: Path, items: Sequence[Item]) -> list[str]:
        """What should be said of dev or test items; ValueError where training cannot have taught their labels."""

    @abstractmethod
    def labelled(self, items: Sequence[Item]) -> bool:
        """Whether items have labels, so that they can be scored."""

    @abstractmethod
    def features(
        self, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, settings: Settings, with_labels: bool
    ) -> Features:
        """Rows for the model."""

    def train_features(self, items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Features:
        """Rows to train on."""
        return self.features(items, tokenizer, settings, with_labels=True)

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """What pads rows to a batch."""

    def freeze(self, model: PreTrainedModel, settings: Settings) -> None:
        """Keep parameters as they are; ValueError where the settings name none that there are."""
        if settings.freeze_embeddings:
            model.get_input_embeddings().weight.requires_grad_(False)

    def trainer(self, settings: Settings) -> Callable[..., Trainer]:
        """What trains and predicts."""
        return Trainer

    def described(self) -> dict[str, Any]:
        """How it is trained, beside the settings, for the record."""
        return {}

    def arguments(self, settings: Settings) -> dict[str, Any]:
        """For the Trainer, beside those of all tasks."""
        return {}

    @abstractmethod
    def reduce(self, logits: Any, labels: Any) -> Any:
        """What is kept of a batch's logits: little, because it is kept for all rows."""

    @abstractmethod
    def predictions(self, items: Sequence[Item], features: Features, outputs: Any) -> list[Prediction]:
        """One prediction an item, from what `reduce` kept of all rows."""

    @abstractmethod
    def score(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Scores:
        """Scores of labelled items."""

    @abstractmethod
    def text(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> str:
        """The predictions as XTREME's file."""
