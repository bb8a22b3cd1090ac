"""Training data in other languages: files of one's own, or the translations that XTREME publishes, `xtreme_translations`.

XTREME has them for XNLI and PAWS-X, five columns a line (both sentences in English, both translated, the label), and for SQuAD
and TyDiQA, in SQuAD's form. They are made by machine: what cannot be trained on is left out, counted and said.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.finetune.files.inputs import read_lines
from pipeline.finetune.files.read_pairs import SentencePair
from pipeline.finetune.files.read_squad import read_translated_squad
from pipeline.finetune.tasks.task import Task
from pipeline.xtreme.catalog import LANGUAGE, XtremeTask

_SQUAD = f"SQuAD/translate-train/squad.translate.train.en-{LANGUAGE}.json"
PUBLISHED = {
    "xnli": f"XNLI/translate-train/en-{LANGUAGE}-translated.tsv",
    "pawsx": f"PAWSX/translate-train/en-{LANGUAGE}-translated.tsv",
    "xquad": _SQUAD,
    "mlqa": _SQUAD,
    "tydiqa": f"TyDiQA-GoldP/translate-train/tydiqa.translate.train.en-{LANGUAGE}.json",
}
COLUMNS = 5
RENAMED = {"contradictory": "contradiction"}
"""Labels of XNLI's translations that have another name in its other files."""


def own_form(task: XtremeTask) -> str:
    """Where a file of one's own is looked for, with `LANGUAGE`."""
    return f"{task.name}/train-{LANGUAGE}.{task.suffix}"


def sought(folder: Path, task: XtremeTask) -> str:
    """The files that are looked for, for an error."""
    forms = [own_form(task), *([PUBLISHED[task.name]] if task.name in PUBLISHED else [])]
    return " or ".join(str(folder / form) for form in forms)


def read_translated(kind: Task[Any, Any], task: XtremeTask, folder: Path, language: str) -> list[Any] | None:
    """The training data of a task in a language; None: there is no file.

    kind: knows the labels of the English data.

    Raises:
        ValueError: the file is damaged, or has nothing that can be trained on.
    """
    own = folder / own_form(task).replace(LANGUAGE, language)
    if own.exists():
        items = kind.read(own)
        if not kind.labelled(items):
            raise ValueError(f"{own}: has no labels to train on")
        kind.check(own, items)
        return items
    path = folder / PUBLISHED.get(task.name, own_form(task)).replace(LANGUAGE, language)
    if not path.exists():
        return None
    found: Sequence[Any]
    if task.kind == "qa":
        found, left_out = read_translated_squad(path)
        what = "questions have no answer that stands at its answer_start"
    else:
        found, left_out = read_five_columns(path, kind.labels)
        what = f"lines have not {COLUMNS} columns, the last of them {', '.join(kind.labels)}"
    if not found:
        raise ValueError(f"{path}: {left_out} {what}; there is nothing to train on")
    if left_out:
        print(f"note: {path}: {left_out} {what}, and are left out", file=sys.stderr)
    return list(found)


def read_five_columns(path: Path, labels: Sequence[str]) -> tuple[list[SentencePair], int]:
    """The translated pairs of a file, and how many lines have not the columns or one of the labels. Quotes are text."""
    pairs = []
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t")
        label = RENAMED.get(columns[-1].strip(), columns[-1].strip())
        if len(columns) == COLUMNS and label in labels:
            pairs.append(SentencePair(columns[2], columns[3], label, number))
    return pairs, len(lines) - len(pairs)
