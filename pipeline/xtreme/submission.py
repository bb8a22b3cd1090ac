"""Predictions as XTREME's leaderboard takes them: `TASK/test-LANGUAGE.tsv` or `.json`, read, checked and scored.

Scores are by the rules of XTREME's `evaluate.py`: accuracy; F1 over spans as seqeval counts them, of POS tags too; exact match
and F1 of answers, MLQA's by its own normalisation; F1 over pairs of ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.files import read_json
from pipeline.finetune.tasks.scores import accuracy, answer_f1, exact_match, span_f1
from pipeline.texts.lines import read_lines
from pipeline.xtreme.catalog import XtremeTask
from pipeline.xtreme.mlqa import mlqa_scores
from pipeline.xtreme.test_sets import TestSet, read_label_lines, read_tag_lines, read_test_set

HEADLINE = {"classify": "accuracy", "tag": "f1", "qa": "", "retrieve": "accuracy", "mine": "f1"}
"""The metric that stands for a task; of qa, the mean of both."""


def prediction_path(folder: Path, task: XtremeTask, language: str) -> Path:
    """Where a language's predictions lie."""
    return folder / task.name / f"test-{language}.{task.suffix}"


def read_predictions(path: Path, test: TestSet) -> Any:
    """Predictions of a test set, in the form of its `gold`.

    Raises:
        ValueError: there are none, or they are not as many, or not of these items; names the file and the first place.
    """
    return _READERS[test.task.kind](path, test)


def _labels(path: Path, test: TestSet) -> list[str]:
    labels = read_label_lines(path)
    _check_count(path, test, len(labels), len(test.lengths), "lines")
    for number, label in enumerate(labels, start=1):
        if not label:
            raise ValueError(f"{path}:{number}: is blank; give a label a line")
    return labels


def _tags(path: Path, test: TestSet) -> list[list[str]]:
    sentences = read_tag_lines(path)
    _check_count(path, test, len(sentences), len(test.lengths), "sentences")
    for number, (tags, words) in enumerate(zip(sentences, test.lengths, strict=True), start=1):
        if len(tags) != words:
            raise ValueError(f"{path}: sentence {number} has {len(tags)} tags, {test.path} has {words} words in it")
    return sentences


def _answers(path: Path, test: TestSet) -> dict[str, str]:
    answers = read_json(path, "give an object with an answer for each question's id")
    if not isinstance(answers, dict) or not all(isinstance(answer, str) for answer in answers.values()):
        raise ValueError(f"{path}: is not an object with a text for each question's id; give that")
    wanted = test.ids[0]
    for missing in sorted(wanted - set(answers))[:1]:
        raise ValueError(f"{path}: has no answer to question {missing} of {test.path}")
    for other in sorted(set(answers) - wanted)[:1]:
        raise ValueError(f"{path}: answers question {other}, which {test.path} does not have")
    return answers


def _found(path: Path, test: TestSet) -> list[str]:
    lines = _labels(path, test)
    for number, line in enumerate(lines, start=1):
        if not (line.isascii() and line.isdecimal()) or int(line) >= test.candidates:
            raise ValueError(f"{path}:{number}: {line!r} is no line of {test.path}; give 0 to {test.candidates - 1}")
    return lines


def _pairs(path: Path, test: TestSet) -> set[tuple[str, str]]:
    pairs = set()
    for number, line in enumerate(read_lines(path, "pairs of ids"), start=1):
        both = line.split("\t")
        if len(both) != 2 or both[0] not in test.ids[0] or both[1] not in test.ids[1]:
            raise ValueError(f"{path}:{number}: {line!r} is no pair of ids of {test.path} and its English side")
        pairs.add((both[0], both[1]))
    return pairs


def _check_count(path: Path, test: TestSet, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise ValueError(f"{path}: has {found} {what}, {test.path} has {wanted}")


_READERS = {"classify": _labels, "tag": _tags, "qa": _answers, "retrieve": _found, "mine": _pairs}


def score(test: TestSet, predictions: Any) -> dict[str, float]:
    """Scores in per cent by name, `score` being the one that stands for the task.

    predictions: what `read_predictions` gives.
    """
    gold: Any = test.gold
    assert gold is not None, "asked of test sets whose answers are known"
    kind = test.task.kind
    if kind == "tag":
        found = {"f1": span_f1(gold, predictions), "accuracy": accuracy(_flat(gold), _flat(predictions))}
    elif kind == "qa":
        found = _score_answers(test, gold, predictions)
    elif kind == "mine":
        found = _score_pairs(gold, predictions)
    else:
        found = {"accuracy": accuracy(gold, predictions)}
    headline = HEADLINE[kind]
    return {"score": found[headline] if headline else sum(found.values()) / len(found)} | found


def _flat(sentences: Sequence[Sequence[str]]) -> list[str]:
    return [tag for tags in sentences for tag in tags]


def _score_answers(test: TestSet, gold: dict[str, list[str]], answers: dict[str, str]) -> dict[str, float]:
    if test.task.name == "mlqa":
        both = [mlqa_scores(answers[each], right, test.language) for each, right in gold.items()]
    else:
        both = [(exact_match(answers[each], right), answer_f1(answers[each], right)) for each, right in gold.items()]
    exact, f1 = (100 * sum(column) / len(both) for column in zip(*both, strict=True))
    return {"exact_match": exact, "f1": f1}


def _score_pairs(gold: set[tuple[str, str]], pairs: set[tuple[str, str]]) -> dict[str, float]:
    right = len(gold & pairs)
    return {
        "f1": 200 * right / (len(gold) + len(pairs)),
        "precision": 100 * right / len(pairs) if pairs else 0.0,
        "recall": 100 * right / len(gold),
    }


def problems(folder: Path, data: Path, tasks: Sequence[XtremeTask]) -> list[str]:
    """What a leaderboard would refuse of predictions, a line each: missing files, and files that are not of their test set."""
    found = []
    for task in tasks:
        for language in task.languages:
            path = prediction_path(folder, task, language)
            if not (data / task.test_of(language)).exists():
                continue
            if not path.exists():
                found.append(f"{path}: no such file; {task.name} needs one for {language}")
                continue
            try:
                read_predictions(path, read_test_set(task, language, data, None))
            except ValueError as error:
                found.append(str(error))
    return found
