"""A Trainer that adds consistency to a task's loss while it trains: of both views of a row, and with a first stage's model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from pipeline.finetune.tasks.views import AUGMENTED, LABELS, NOISE, OTHER, PLACES, Views

Agreement = Callable[[Any, Any, dict[str, Tensor]], Tensor | None]
"""(outputs of the model, outputs to compare them with, the batch) → a loss; None where there is nothing to compare."""


@dataclass(frozen=True)
class Agreements:
    """What is added to the task's loss."""

    of_views: Agreement
    weight: float
    of_models: Agreement
    """Of the augmented rows alone."""
    model_weight: float
    spread: float
    """Standard deviation of the noise of rows that have a key of it."""


class ConsistencyTrainer(Trainer):
    """See the module. teacher: the model of the first stage; None: there is none."""

    def __init__(self, *, agreements: Agreements, teacher: nn.Module | None, **more: Any) -> None:
        super().__init__(**more)
        self._agreements, self._teacher = agreements, teacher
        if teacher is not None:
            teacher.to(self.args.device)
        if isinstance(self.train_dataset, Views):
            self.add_callback(_Epochs(self.train_dataset))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The task's loss, and in training how far the views, and the models, are apart."""
        batch = dict(inputs)
        ours = [name for name in batch if name.startswith(OTHER) or name in (PLACES, AUGMENTED, NOISE)]
        own = {name: value for name, value in batch.items() if name not in ours}
        seen = self._noisy(own, batch.get(NOISE))
        loss, outputs = super().compute_loss(model, seen, True, num_items_in_batch)
        how = self._agreements
        if model.training and f"{OTHER}input_ids" in batch:
            other = {name.removeprefix(OTHER): value for name, value in batch.items() if name.startswith(OTHER)}
            inside = {name: value for name, value in other.items() if name not in (PLACES, NOISE)}
            again = model(**self._noisy(inside, other.get(NOISE)))
            loss = _with(loss, how.weight, how.of_views(outputs, again, batch))
        if model.training and self._teacher is not None and AUGMENTED in batch and bool(batch[AUGMENTED].any()):
            with torch.no_grad():  # it sees the rows without noise, as released
                taught = self._teacher(**{name: value for name, value in own.items() if name not in LABELS})
            loss = _with(loss, how.model_weight, how.of_models(outputs, taught, batch))
        return (loss, outputs) if return_outputs else loss

    def _noisy(self, inputs: dict[str, Any], keys_B: Tensor | None) -> dict[str, Any]:
        """The same inputs, with embeddings that have noise instead of ids, where a row has a key of it."""
        if keys_B is None or not bool(keys_B.any()):
            return inputs
        embed: Any = self.accelerator.unwrap_model(self.model).get_input_embeddings()
        rest = {name: value for name, value in inputs.items() if name != "input_ids"}
        embedded_BLD = embed(inputs["input_ids"])
        noise_BLD = noise_of(keys_B, inputs["attention_mask"].sum(dim=1), embedded_BLD.shape)
        return rest | {"inputs_embeds": embedded_BLD + self._agreements.spread * noise_BLD.to(embedded_BLD)}


def noise_of(keys_B: Tensor, lengths_B: Tensor, shape: torch.Size) -> Tensor:
    """Standard normal noise [B, L, D] of rows' tokens, fp32 on the CPU; a row's depends on its key alone, and 0 is none."""
    noise_BLD = torch.zeros(shape)
    for row, (key, length) in enumerate(zip(keys_B.tolist(), lengths_B.tolist(), strict=True)):
        if key:
            noise_BLD[row, :length] = torch.randn(length, shape[2], generator=torch.Generator().manual_seed(key))
    return noise_BLD


def _with(loss: Tensor, weight: float, more: Tensor | None) -> Tensor:
    return loss if more is None else loss + weight * more


class _Epochs(TrainerCallback):
    """Has the rows seen otherwise in every epoch."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._begun = 0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._views.epoch = self._begun
        self._begun += 1
