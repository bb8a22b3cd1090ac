"""Questions, contexts and answers: SQuAD v1.1's JSON, which XQuAD, MLQA and TyDiQA-GoldP use too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError


class _Answer(BaseModel):
    text: str
    answer_start: int = 0


class _Question(BaseModel):
    id: str
    question: str
    answers: list[_Answer] = []


class _Paragraph(BaseModel):
    context: str
    qas: list[_Question]


class _Article(BaseModel):
    paragraphs: list[_Paragraph]


class _Squad(BaseModel):
    data: list[_Article]


@dataclass(frozen=True)
class Question:
    """A question about a context."""

    id: str
    question: str
    context: str
    answers: list[str]
    """Texts that count as right; empty where the file has none."""
    start: int
    """Where the first answer begins in the context, in characters."""


def read_squad(path: Path) -> list[Question]:
    """Questions of a file. An answer with an empty text, as in XTREME's test files, is none.

    Raises:
        ValueError: no SQuAD v1.1, no question, an id that occurs twice, or answers for some questions only.
    """
    questions = _questions(path)
    without = [each.id for each in questions if not each.answers]
    if 0 < len(without) < len(questions):
        raise ValueError(f"{path}: question {without[0]} has no answer, others have; SQuAD v1.1 has one for each")
    return questions


def read_translated_squad(path: Path) -> tuple[list[Question], int]:
    """The questions of a translated file whose answers stand where they should, and how many others there are.

    Raises:
        ValueError: see `read_squad`, but for the answers.
    """
    questions = _questions(path)
    found = [each for each in questions if _stands(each)]
    return found, len(questions) - len(found)


def _questions(path: Path) -> list[Question]:
    try:
        content = _Squad.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path}: not SQuAD v1.1: {place}: {first['msg']}") from None
    questions: dict[str, Question] = {}
    for paragraph in (paragraph for article in content.data for paragraph in article.paragraphs):
        for each in paragraph.qas:
            if each.id in questions:
                raise ValueError(f"{path}: question {each.id} occurs twice; give every question an id of its own")
            answers = [answer for answer in each.answers if answer.text]
            start = answers[0].answer_start if answers else 0
            texts = [answer.text for answer in answers]
            questions[each.id] = Question(each.id, each.question, paragraph.context, texts, start)
    if not questions:
        raise ValueError(f"{path}: has no question")
    return list(questions.values())


def _stands(question: Question) -> bool:
    """Whether the first answer stands at its place in the context."""
    at = question.start
    return bool(question.answers) and at >= 0 and question.context.startswith(question.answers[0], at)


def check_answers(path: Path, questions: Sequence[Question]) -> None:
    """What training needs: ValueError where an answer's text does not stand at its `answer_start`."""
    for each in questions:
        if not each.answers:
            raise ValueError(f"{path}: question {each.id} has no answer to train on")
        if not _stands(each):
            raise ValueError(
                f"{path}: question {each.id}: {each.answers[0]!r} does not stand at answer_start {each.start}; "
                "correct it or leave the question out"
            )
