"""Generation: a text is read and another is written, a translation, a question or a summary as the training data has it.

Starts from an encoder that already has a decoder, trains both or parts of them, and predicts by searching. A file's language is
that of the texts to write, unless all are to be written in one.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from pipeline.evaluate.generation import check_installed, score_texts
from pipeline.finetune.files.read_texts import Text, read_texts
from pipeline.finetune.tasks.task import Features, Scores, Settings, Start, Task
from pipeline.generate.model import TextModel, load_text_model
from pipeline.generate.search import Search, Words, padded, search

ALL, DECODER = "all", "decoder"
NO_LABEL = -100  # by which Trainer and losses know what is not predicted


@dataclass(frozen=True)
class WritingSettings(Settings):
    """Of this task alone."""

    label_smoothing: float = 0.0
    """Share of a target's probability that all words have alike."""
    train_layers: str = ALL
    """all; decoder; or FIRST-LAST, these layers of the encoder, counted from 1, and nothing else."""
    beam: int = 5


@dataclass
class WriterStart(Start):
    """A model that writes, and its tokenizer."""

    text_model: TextModel

    @property
    def longest(self) -> int:
        return min(self.text_model.longest_source, self.text_model.longest_target)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self.text_model.module.state_dict()

    def model(self, kind: Any, labels: list[str], dropout: float) -> PreTrainedModel:
        made: PreTrainedModel = deepcopy(self.text_model.module)
        for module in made.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        config: Any = made.config
        for part in (config.encoder, config.decoder):
            part.hidden_dropout_prob = part.attention_probs_dropout_prob = dropout
        return made


class Generation(Task[Text, str]):
    """See the module."""

    kind, suffix, name, headline = "generate", "txt", "generation", "bleu"
    model = None
    defaults = WritingSettings(epochs=5, learning_rate=5e-5, batch=32, max_length=256, stride=0)

    def __init__(self, to: str | None = None) -> None:
        """to: the language of all texts to write; None: each file's."""
        self.to = to
        self.labels = []

    def start(self, folder: Path, tokenizer_dir: Path | None) -> WriterStart:
        if tokenizer_dir is not None:
            raise ValueError(
                f"--tokenizer {tokenizer_dir}: a model with a decoder has a tokenizer of its own; leave it out"
            )
        check_installed()
        self._model = load_text_model(folder)
        return WriterStart(self._model.tokenizer, None, self._model)

    def read(self, path: Path) -> list[Text]:
        return read_texts(path)

    def of_language(self, items: Sequence[Text], language: str) -> list[Text]:
        return [replace(item, language=self.to or language) for item in items]

    def learn(self, path: Path, items: Sequence[Text]) -> None:
        if not self.labelled(items):
            raise ValueError(f"{path}: has no targets to train on; give source and target, a tab apart")

    def check(self, path: Path, items: Sequence[Text]) -> list[str]:
        return []

    def labelled(self, items: Sequence[Text]) -> bool:
        return all(item.target is not None for item in items)

    def features(
        self, items: Sequence[Text], tokenizer: PreTrainedTokenizerBase, settings: Settings, with_labels: bool
    ) -> Features:
        model, features, longest = self._model, Features(), settings.max_length
        sources = model.encode([item.source for item in items])
        targets = model.encode([item.target or "" for item in items])
        for index, (item, source, target) in enumerate(zip(items, sources, targets, strict=True)):
            to = item.language if model.record.languages or self.to else None
            model.check_language(to)
            if len(source) + model.special(to) > longest:
                features.note("sources cut at their end")
            row = {"input_ids": model.source(source, to, longest), "decoder_input_ids": [model.start(to)]}
            if with_labels:
                whole = [*target, model.end]
                if len(whole) > longest:
                    features.note("targets cut at their end")
                row["labels"] = whole[:longest]
                row["decoder_input_ids"] += row["labels"][:-1]
            features.add(row, index)
        return features

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        fillings = {"input_ids": self._model.padding, "decoder_input_ids": self._model.padding, "labels": NO_LABEL}

        def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            batch = {}
            for name in rows[0]:
                batch[name], mask = padded([row[name] for row in rows], fillings[name], torch.device("cpu"))
                if name == "input_ids":
                    batch["attention_mask"] = mask
            return batch

        return collate

    def freeze(self, model: PreTrainedModel, settings: Settings) -> None:
        assert isinstance(settings, WritingSettings)
        freeze(model, settings.train_layers)
        if settings.freeze_embeddings:
            for module in model.modules():
                if isinstance(module, nn.Embedding) and module.num_embeddings == self._model.words:
                    module.weight.requires_grad_(False)

    def trainer(self, settings: Settings) -> Callable[..., Trainer]:
        assert isinstance(settings, WritingSettings)
        most = min(settings.max_length, self._model.longest_target - 1)
        words = Words(self._model.padding, self._model.end, self._model.writable())
        return partial(WritingTrainer, how=Search(settings.beam, max_tokens=most), words=words)

    def arguments(self, settings: Settings) -> dict[str, Any]:
        assert isinstance(settings, WritingSettings)
        return {"label_smoothing_factor": settings.label_smoothing}

    def reduce(self, logits: Any, labels: Any) -> Any:
        return logits

    def predictions(self, items: Sequence[Text], features: Features, outputs: Any) -> list[str]:
        found = [""] * len(items)
        for index, ids in zip(features.places, outputs.tolist(), strict=True):
            found[index] = self._model.text([i for i in ids if i != NO_LABEL])
        return found

    def score(self, items: Sequence[Text], predictions: Sequence[str]) -> Scores:
        return score_texts(predictions, [item.target or "" for item in items], items[0].language).metrics()

    def text(self, items: Sequence[Text], predictions: Sequence[str]) -> str:
        return "".join(f"{text}\n" for text in predictions)


def freeze(model: Any, train_layers: str) -> None:
    """Keep everything as it is but what `WritingSettings.train_layers` names.

    Layers of the encoder are trained without embeddings, which other languages need as they are (XNLG); the decoder without
    what the encoder has too.

    Raises:
        ValueError: it names no such layers.
    """
    if train_layers == ALL:
        return
    layers = model.encoder.encoder.layer
    if train_layers == DECODER:
        shared = {id(parameter) for parameter in model.encoder.parameters()}
        trained = [parameter for parameter in model.decoder.parameters() if id(parameter) not in shared]
    else:
        found = re.fullmatch(r"(\d+)-(\d+)", train_layers)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--train-layers {train_layers}: give {ALL}, {DECODER} or FIRST-LAST, as in 1-10")
        if int(found[2]) > len(layers):
            raise ValueError(f"--train-layers {train_layers}: the encoder has {len(layers)} layers")
        trained = list(layers[int(found[1]) - 1 : int(found[2])].parameters())
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


class WritingTrainer(Trainer):
    """A Trainer whose outputs are ids that were written, `</s>` included, and not logits."""

    def __init__(self, *, how: Search, words: Words, **more: Any) -> None:
        super().__init__(**more)
        self._how, self._words = how, words

    def compute_loss(self, *arguments: Any, **named: Any) -> Any:
        with warnings.catch_warnings():
            # Transformers would rather make the decoder's inputs of the labels; these begin with a tag.
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers.models.encoder_decoder")
            return super().compute_loss(*arguments, **named)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, Tensor, Tensor | None]:
        device = self.args.device
        words = replace(self._words, allowed_V=self._words.allowed_V.to(device))
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        rows = [ids[:length] for ids, length in zip(inputs["input_ids"].tolist(), lengths, strict=True)]
        with self.compute_loss_context_manager():
            found = search(self.model, rows, inputs["decoder_input_ids"][:, 0].tolist(), self._how, words)
        written_BL, _ = padded([[*best.ids, words.end] for best, *_ in found], NO_LABEL, device)
        labels = inputs.get("labels")
        return None, written_BL, None if labels is None else labels.to(device)
