"""Hugging Face's Trainer as it is used here: seeded, a line an epoch, and the best model by a dev file where there is one."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from pipeline.finetune.tasks.task import Features, Settings, Start, Task

EVAL_BATCH = 32
METRICS = ("accuracy", "exact_match", "f1", "bleu", "chrf", "rouge_l", "script", "language")


@dataclass
class Labelled:
    """Items and their rows."""

    items: Sequence[Any]
    features: Features


def fine_tune(
    task: Task[Any, Any],
    start: Start,
    settings: Settings,
    seed: int,
    train: Features,
    dev: Labelled | None,
    out: Path,
    most_steps: int | None = None,
) -> Trainer:
    """A trainer whose model is trained on `train`; with `dev`, as it was when it had the best headline metric.

    The head, the order of the rows and dropout are the seed's. Checkpoints, with `dev` one an evaluation, go to `out`.

    Args:
        most_steps: where the epochs have more, training, and the fall of its learning rate, ends after so many.
    """
    set_seed(seed)
    model = start.model(task.built_by(settings), task.labels, settings.dropout)
    task.freeze(model, settings)
    bars = sys.stderr.isatty()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of writing weights
    trainer = task.trainer(settings)(
        model=model,
        args=_arguments(task, settings, seed, dev is not None, bars, out),
        train_dataset=train.dataset(seed),
        eval_dataset=None if dev is None else Dataset.from_list(dev.features.rows),
        data_collator=task.collator(start.tokenizer),
        processing_class=start.tokenizer,
        compute_metrics=None if dev is None else _scorer(task, dev),
        preprocess_logits_for_metrics=task.reduce,
        callbacks=[_Lines()],
    )
    steps = math.ceil(math.ceil(len(train.rows) / trainer.args.train_batch_size) * settings.epochs)
    if most_steps is not None and steps > most_steps:
        trainer.args.max_steps = steps = most_steps
    if dev is not None and settings.eval_every is not None and settings.eval_every > steps:
        raise ValueError(f"--eval-every {settings.eval_every}: training has {steps} steps; give fewer")
    trainer.remove_callback(ProgressCallback if bars else PrinterCallback)
    if bars:
        trainer.add_callback(_Bars())
    trainer.train()
    return trainer


def predictor(task: Task[Any, Any], model: Any, tokenizer: Any, settings: Settings, scratch: Path) -> Trainer:
    """A trainer that only predicts. Nothing of value is written to `scratch`."""
    bars = sys.stderr.isatty()
    transformers_logging.set_verbosity_error()
    trainer = Trainer(
        model=model,
        args=_arguments(task, settings, 0, with_dev=False, bars=bars, out=scratch),
        data_collator=task.collator(tokenizer),
        preprocess_logits_for_metrics=task.reduce,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def outputs_of(trainer: Trainer, features: Features) -> Any:
    """What the task's `reduce` keeps for every row, in the order of the rows."""
    return trainer.predict(Dataset.from_list(features.rows)).predictions


def _arguments(
    task: Task[Any, Any], settings: Settings, seed: int, with_dev: bool, bars: bool, out: Path
) -> TrainingArguments:
    on_cpu = settings.on_cpu or not torch.cuda.is_available()
    when = "no" if not with_dev else "epoch" if settings.eval_every is None else "steps"
    steps: dict[str, Any] = {}
    if settings.eval_every is not None:
        steps = {"eval_steps": settings.eval_every, "save_steps": settings.eval_every}
    return TrainingArguments(
        output_dir=str(out),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=EVAL_BATCH,
        seed=seed,
        data_seed=seed,
        bf16=settings.bf16,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        logging_strategy="epoch",
        train_sampling_strategy="group_by_length" if settings.group_lengths else "random",
        eval_strategy=when,
        save_strategy=when,
        **steps,
        save_only_model=True,
        save_total_limit=1,
        load_best_model_at_end=with_dev,
        metric_for_best_model=task.headline if with_dev else None,
        greater_is_better=True if with_dev else None,
        disable_tqdm=not bars,
        report_to=list(settings.report_to),
        **task.arguments(settings),
    )


def _scorer(task: Task[Any, Any], dev: Labelled) -> Any:
    return lambda outputs: task.score(dev.items, task.predictions(dev.items, dev.features, outputs.predictions))


class _Lines(TrainerCallback):
    """A line for the losses of an epoch, and one for its scores on dev."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        logs = logs or {}
        scores = [f"{metric} {logs[f'eval_{metric}']:.2f}" for metric in METRICS if f"eval_{metric}" in logs]
        if "loss" in logs:
            print(f"epoch {logs['epoch']:g} of {args.num_train_epochs:g}: loss {logs['loss']:.4f}", file=sys.stderr)
        elif scores:
            print(f"  dev: {', '.join(scores)}", file=sys.stderr)


class _Bars(ProgressCallback):
    """Progress bars alone."""

    def on_log(self, *_: Any, **__: Any) -> None:
        pass
