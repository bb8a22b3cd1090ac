"""XTREME's tasks from the data sets of the hub, written in the layout of its download; test files have their labels."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.files import write_text
from pipeline.xtreme.catalog import ENGLISH, XtremeTask
from pipeline.xtreme.hub_parts import Part, parts_of

XTREME, MULTI_NLI = "google/xtreme", "nyu-mll/multi_nli"
EMPTY_WORD = "_"
"""In place of a word without a sign, which a file with a word a line cannot hold."""
Row = Mapping[str, Any]


class Hub:
    """The two data sets; each is a name on the hub, or a folder of one."""

    def __init__(self, xtreme: str = XTREME, multi_nli: str = MULTI_NLI) -> None:
        self._xtreme, self._multi_nli = xtreme, multi_nli
        self._configs: dict[str, list[str]] = {}
        self._splits: dict[tuple[str, str], list[str]] = {}
        """Both are asked for once, over the network."""

    def named(self, part: Part) -> str:
        """How a part is told."""
        return ":".join(word for word in (self._place(part), part.config, part.split) if word)

    def has(self, part: Part) -> bool:
        """Whether the configuration is there, with the split; ValueError where there is no such data set."""
        import datasets

        place = self._place(part)
        with _told(place):
            if place not in self._configs:
                self._configs[place] = datasets.get_dataset_config_names(place)
            if part.config and part.config not in self._configs[place]:
                return False
            key = place, part.config
            if key not in self._splits:
                self._splits[key] = datasets.get_dataset_split_names(place, part.config or None)
            return part.split in self._splits[key]

    def rows(self, part: Part) -> tuple[list[Row], Mapping[str, Any]]:
        """All rows, streamed, and what the columns are.

        Raises:
            ValueError: they cannot be read, or lack a column.
        """
        import datasets

        datasets.disable_progress_bars()
        wanted = [*part.columns, *([part.key] if part.key and part.key not in part.columns else [])]
        with _told(self._place(part)):
            streamed = datasets.load_dataset(self._place(part), part.config or None, split=part.split, streaming=True)
            missing = [column for column in wanted if column not in (streamed.column_names or wanted)]
            if not missing:
                return list(streamed.select_columns(wanted)), streamed.features or {}
        raise ValueError(
            f"{self.named(part)}: has no column {', '.join(missing)}; give a data set as the card of {XTREME} has it"
        )

    def _place(self, part: Part) -> str:
        return self._xtreme if part.of_xtreme else self._multi_nli


@contextmanager
def _told(place: str) -> Iterator[None]:
    """What the library raises where it does not find or reach a data set, as one line that names it."""
    import datasets

    try:
        yield
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ValueError(
            f"{place}: cannot be read ({why}); see that the hub is within reach, or give the data set's folder by --dataset "
            "or --multi-nli"
        ) from None


def fetch(out: Path, tasks: Sequence[XtremeTask], hub: Hub) -> int:
    """Write the files of the tasks that are not there yet; how many were written. What the hub lacks is said.

    Raises:
        ValueError: a data set cannot be read, or has other columns than its card says.
    """
    written = 0
    for task in tasks:
        parts = parts_of(task)
        if not parts:
            _say(
                f"{task.name}: left out: the hub has the pairs to be found, and not the sentences around them; XTREME's "
                "scripts/download_data.sh has them"
            )
        missing = []
        for part in parts:
            if all((out / place).exists() for place in part.places.values()):
                continue
            if not hub.has(part):
                missing.append(hub.named(part))
                continue
            files = _files(part, *hub.rows(part), hub.named(part))
            for place, text in files.items():
                write_text(out / place, text)
            written += len(files)
            _say(f"{hub.named(part)}: {len(files)} {'file' if len(files) == 1 else 'files'}")
        if missing:
            _say(f"note: {task.name}: left out, since it is not there: {', '.join(missing)}")
    return written


def _files(part: Part, rows: list[Row], features: Mapping[str, Any], name: str) -> dict[str, str]:
    """Texts by their places; what had to be changed or left out is said."""
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row[part.key].partition("-")[0] if part.key else "", []).append(row)
    for other in sorted(by_key.keys() - part.places.keys()):
        _say(
            f"note: {name}: {len(by_key.pop(other)):,} rows of {other!r}, which is no language of the task, are left out"
        )
    changed: Counter[str] = Counter()
    files: dict[str, str] = {}
    for key, of_key in by_key.items():
        place = part.places[key]
        if part.kind == "questions":
            files[place] = _questions(of_key)
        elif part.kind == "sides":
            files[place], files[str(Path(place).with_suffix(f".{ENGLISH}"))] = _sides(part, of_key, changed)
        else:
            write = _pairs if part.kind == "pairs" else _tagged
            files[place] = write(part, of_key, _names(features, part.columns[-1], name), changed)
    for what, count in changed.items():
        _say(f"note: {name}: {count:,} {what}")
    return files


def _pairs(part: Part, rows: list[Row], name: Callable[[Any], str], changed: Counter[str]) -> str:
    first, second, label = part.columns
    return "".join(f"{_line(row[first], changed)}\t{_line(row[second], changed)}\t{name(row[label])}\n" for row in rows)


def _tagged(part: Part, rows: list[Row], name: Callable[[Any], str], changed: Counter[str]) -> str:
    words, tags = part.columns
    sentences = []
    for row in rows:
        taken = zip(row[words], row[tags], strict=True)
        sentences.append("".join(f"{_word(word, changed)}\t{name(tag)}\n" for word, tag in taken))
    return "\n".join(sentences)


def _questions(rows: list[Row]) -> str:
    """SQuAD's JSON, with questions on one context together where they follow each other."""
    articles = []
    for context, of_context in groupby(rows, key=lambda row: row["context"]):
        asked = [
            {"id": row["id"], "question": row["question"], "answers": _answers(row["answers"])} for row in of_context
        ]
        articles.append({"paragraphs": [{"context": context, "qas": asked}]})
    return json.dumps({"version": "1.1", "data": articles}, ensure_ascii=False)


def _answers(answers: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    pairs = zip(answers["answer_start"], answers["text"], strict=True)
    return [{"answer_start": start, "text": text} for start, text in pairs]


def _sides(part: Part, rows: list[Row], changed: Counter[str]) -> tuple[str, str]:
    first, second = ("".join(f"{_line(row[side].strip(), changed)}\n" for row in rows) for side in part.columns)
    return first, second


def _names(features: Mapping[str, Any], column: str, of: str) -> Callable[[Any], str]:
    """What a label is called: by the names that come with the data set, or as it stands there. of: which is told of errors."""
    feature = features.get(column)
    label = getattr(feature, "feature", feature)
    names = getattr(label, "names", None)
    if names is None:
        return str

    def name(number: int) -> str:
        if not 0 <= number < len(names):
            raise ValueError(f"{of}: label {number} of column {column} is none of {', '.join(names)}")
        return str(names[number])

    return name


def _line(text: str, changed: Counter[str]) -> str:
    """Text that a line of columns can hold."""
    if not any(sign in text for sign in "\t\n\r"):
        return text
    changed["texts had tabs or ends of lines, which are spaces now"] += 1
    return text.translate({ord(sign): " " for sign in "\t\n\r"})


def _word(word: str, changed: Counter[str]) -> str:
    if word.strip():
        return _line(word, changed)
    changed[f"words were empty and are {EMPTY_WORD} now"] += 1
    return EMPTY_WORD


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
