"""Texts and what is to be written of them: `source<TAB>target` a line, or an object a line, `{"source": …, "target": …}`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.finetune.files.inputs import read_lines
from pipeline.texts.lines import kind_of

OBJECTS = ".jsonl"


@dataclass(frozen=True)
class Text:
    """What is read and, unless the file has none, what is to be written; the language of that, once it is known."""

    source: str
    target: str | None
    line: int
    language: str = ""


def read_texts(path: Path) -> list[Text]:
    """Texts of a file, a .jsonl or a table; without a second column, or without `target`, there is nothing to be learned.

    Raises:
        ValueError: a line is no such text, its source or target is empty, or some have a target and others none; names it.
    """
    found: list[Text] = []
    for number, (source, target) in _columns(path):
        where = f"{path}: line {number}"
        if not source.strip():
            raise ValueError(f"{where} has an empty source; give a text to be read")
        if target is not None and not target.strip():
            raise ValueError(f"{where} has an empty target; give the text that is to be written")
        if found and (target is None) != (found[0].target is None):
            has = "no target, line 1 has one" if target is None else "a target, line 1 has none"
            raise ValueError(f"{where} has {has}; give targets to all lines or to none")
        found.append(Text(source, target, number))
    return found


def _columns(path: Path) -> Iterator[tuple[int, tuple[str, str | None]]]:
    objects = kind_of(path) == OBJECTS
    for number, line in enumerate(read_lines(path), start=1):
        if objects:
            yield number, _fields(line, f"{path}: line {number}")
            continue
        columns = line.split("\t")
        if len(columns) > 2:
            raise ValueError(f"{path}: line {number} has {len(columns)} columns; give source and target, a tab apart")
        yield number, (columns[0], columns[1] if len(columns) == 2 else None)


def _fields(line: str, where: str) -> tuple[str, str | None]:
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f'{where} is not JSON; give {{"source": …, "target": …}} a line') from None
    source = content.get("source") if isinstance(content, dict) else None
    target = content.get("target") if isinstance(content, dict) else None
    if not isinstance(source, str) or not (target is None or isinstance(target, str)):
        raise ValueError(f'{where} has not the texts source and target; give {{"source": …, "target": …}} a line')
    return source, target
