"""A fine-tuned model on new text: the words are split, cut and encoded as they were in training.

Knows the folder that `run` writes (OUT/model) and the tasks; trains nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from data_prep.files import read_json, write_text
from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.tasks.classification import Classification
from pipeline.finetune.tasks.generation import Generation
from pipeline.finetune.tasks.question_answering import QuestionAnswering
from pipeline.finetune.tasks.tagging import FIRST, Tagging, TaggingSettings
from pipeline.finetune.tasks.task import Scores, Settings, Task
from pipeline.finetune.training import outputs_of, predictor
from pipeline.texts.lines import read_lines
from pipeline.texts.sentence_pairs import split_raw

RECORD = "finetune.json"
"""In the model's folder: how it was made, as far as predicting must know it."""
TASKS: dict[str, type[Task[Any, Any]]] = {
    "classify": Classification,
    "tag": Tagging,
    "qa": QuestionAnswering,
    "generate": Generation,
}


@dataclass
class Predictions:
    """What was predicted: the text of the file, scores where the items have labels, and what a user may not expect."""

    text: str
    items: int
    scores: Scores
    notes: list[str]


def write_record(folder: Path, task: Task[Any, Any], settings: Settings) -> None:
    """Keep with a model what task it is for and how long its rows are."""
    kept: dict[str, Any] = {"task": task.kind, "max_length": settings.max_length, "stride": settings.stride}
    if isinstance(settings, TaggingSettings) and settings.subwords != FIRST:
        kept["subwords"] = settings.subwords
    write_text(folder / RECORD, json.dumps(kept, indent=1) + "\n")


def predict(folder: Path, file: Path, *, raw: bool = False, on_cpu: bool = False) -> Predictions:
    """Predict a file's items with a model of `finetune`.

    on_cpu: see `Settings`.
    raw: (tag) the file is untokenised text, a sentence a line, and its words are found by `split_raw`.

    Raises:
        ValueError: the folder holds no fine-tuned model, or the file is not as its task has them.
    """
    record = read_json(folder / RECORD, "give the folder `model` that finetune wrote")
    if record.get("task") not in TASKS:
        raise ValueError(f"{folder / RECORD}: task {record.get('task')!r} is none of {', '.join(TASKS)}")
    task = TASKS[record["task"]]()
    if task.kind == Generation.kind:
        raise ValueError(f"{folder}: writes texts; use python -m pipeline generate {folder} {file}")
    settings = replace(task.defaults, max_length=record["max_length"], stride=record["stride"], on_cpu=on_cpu)
    if isinstance(settings, TaggingSettings):
        settings = replace(settings, subwords=record.get("subwords", FIRST))
    labels = AutoConfig.from_pretrained(folder, local_files_only=True).id2label
    task.labels = [] if task.kind == "qa" else [labels[number] for number in range(len(labels))]
    items = _read(task, file, raw)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    features = task.features(items, tokenizer, settings, with_labels=False).by_length()
    model = task.built_by(settings).from_pretrained(folder, local_files_only=True, use_safetensors=True)
    with tempfile.TemporaryDirectory() as scratch:
        outputs = outputs_of(predictor(task, model, tokenizer, settings, Path(scratch)), features)
    found = task.predictions(items, features, outputs)
    notes = [f"{times:,} {note}" for note, times in features.notes.items() if times]
    scores = task.score(items, found) if task.labelled(items) else {}
    return Predictions(_text(task, items, found), len(items), scores, notes)


def _read(task: Task[Any, Any], file: Path, raw: bool) -> list[Any]:
    if not raw:
        items = task.read(file)
        task.check(file, items)
        return items
    if task.kind != "tag":
        raise ValueError(
            f"--raw: of tagging alone; this model is for {task.kind}, see docs/finetuning.md for its files"
        )
    return [Sentence(split_raw(line), None) for line in read_lines(file, "text, a sentence a line")]


def _text(task: Task[Any, Any], items: Sequence[Any], found: Sequence[Any]) -> str:
    """XTREME's file; of tags, with the words before them."""
    if task.kind != "tag":
        return task.text(items, found)
    return "\n".join(
        "".join(f"{word}\t{tag}\n" for word, tag in zip(sentence.words, tags, strict=True))
        for sentence, tags in zip(items, found, strict=True)
    )
