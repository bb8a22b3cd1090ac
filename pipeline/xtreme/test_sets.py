"""What a language's test set asks for, and the right answers where they are known: in its own files or in a folder of labels.

A folder of labels has `TASK/test-LANGUAGE.tsv` or `.json`, as XTREME's `evaluate.py --label_folder` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.finetune.files.read_pairs import read_pairs
from pipeline.finetune.files.read_squad import read_squad
from pipeline.finetune.files.read_tagged import read_tagged
from pipeline.texts.identified import read_gold_pairs, read_identified
from pipeline.texts.lines import read_lines
from pipeline.xtreme.catalog import ENGLISH, XtremeTask

Labels = list[str]
Tags = list[list[str]]
Answers = dict[str, list[str]]
Pairs = set[tuple[str, str]]


@dataclass(frozen=True)
class TestSet:
    """One language's test set, without its texts; what it has of these is by the kind of the task."""

    task: XtremeTask
    language: str
    path: Path
    lengths: list[int]
    """classify, retrieve: 1 for each item; tag: the words of each sentence; else empty."""
    ids: tuple[set[str], set[str]]
    """qa: the questions', and none; mine: those of the language's sentences and of the English ones."""
    candidates: int
    """retrieve: lines of the language's side."""
    gold: Labels | Tags | Answers | Pairs | None
    """The right answers; None: nobody has them here."""


def read_test_set(task: XtremeTask, language: str, data: Path, labels: Path | None) -> TestSet:
    """The test set of a language.

    Raises:
        ValueError: a file is missing or damaged, or the labels are not those of this test set.
    """
    path = data / task.test_of(language)
    known = None if labels is None else labels / task.name / f"test-{language}.{task.suffix}"
    if known is not None and not known.exists():
        known = None
    made = _READERS[task.kind](task, language, path, known)
    gold = made.gold
    if known is not None and isinstance(gold, list) and not _fits(made, gold):
        raise ValueError(f"{known}: its items or words are not as many as {path} has; give the labels of this test set")
    return made


def _fits(made: TestSet, gold: Labels | Tags) -> bool:
    return [1 if isinstance(each, str) else len(each) for each in gold] == made.lengths


def _classify(task: XtremeTask, language: str, path: Path, known: Path | None) -> TestSet:
    pairs = read_pairs(path)
    gold = [pair.label for pair in pairs if pair.label is not None] or None
    if gold is None and known is not None:
        gold = read_label_lines(known)
    return TestSet(task, language, path, [1] * len(pairs), (set(), set()), 0, gold)


def _tag(task: XtremeTask, language: str, path: Path, known: Path | None) -> TestSet:
    sentences = [sentence for sentence in read_tagged(path) if sentence.words]
    gold = [sentence.tags for sentence in sentences if sentence.tags is not None] or None
    if gold is None and known is not None:
        gold = read_tag_lines(known)
    return TestSet(task, language, path, [len(each.words) for each in sentences], (set(), set()), 0, gold)


def _answer(task: XtremeTask, language: str, path: Path, known: Path | None) -> TestSet:
    questions = read_squad(path)
    ids = {question.id for question in questions}
    gold = {question.id: question.answers for question in questions if question.answers} or None
    if gold is None and known is not None:
        gold = {question.id: question.answers for question in read_squad(known)}
        if set(gold) != ids or not all(gold.values()):
            raise ValueError(f"{known}: has not an answer to each question of {path}; give the labels of this test set")
    return TestSet(task, language, path, [], (ids, set()), 0, gold)


def _retrieve(task: XtremeTask, language: str, path: Path, known: Path | None) -> TestSet:
    """English lines that are sorted, as XTREME's download leaves them, do not tell which line belongs to which."""
    texts = read_lines(path, "a sentence a line")
    english = read_lines(path.with_suffix(f".{ENGLISH}"), "a sentence a line")
    gold: Labels | None = None
    if known is not None:
        gold = read_label_lines(known)
    elif len(texts) == len(english) and english != sorted(english):
        gold = [str(line) for line in range(len(english))]
    return TestSet(task, language, path, [1] * len(english), (set(), set()), len(texts), gold)


def _mine(task: XtremeTask, language: str, path: Path, known: Path | None) -> TestSet:
    sides = read_identified(path), read_identified(path.with_suffix(f".{ENGLISH}"))
    own = path.with_suffix(".gold")
    place = own if own.exists() else known
    gold = None if place is None else read_gold_pairs(place, *sides)
    return TestSet(task, language, path, [], (set(sides[0].ids), set(sides[1].ids)), 0, gold)


def read_label_lines(path: Path) -> Labels:
    """A label a line."""
    return [line.strip() for line in read_lines(path, "a label a line")]


def read_tag_lines(path: Path) -> Tags:
    """A tag a line and a blank line between sentences."""
    sentences: Tags = [[]]
    for line in read_label_lines(path):
        if line:
            sentences[-1].append(line)
        elif sentences[-1]:
            sentences.append([])
    return [tags for tags in sentences if tags]


_READERS = {"classify": _classify, "tag": _tag, "qa": _answer, "retrieve": _retrieve, "mine": _mine}
