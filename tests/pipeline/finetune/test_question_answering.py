"""Question answering: spans over windows, a tiny task, XTREME's layout."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.finetune.files.read_squad import Question
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.question_answering import ANSWER_TOKENS, QuestionAnswering, best_span
from tests.pipeline.finetune.conftest import QUICK, WORDS, Done

Write = Callable[[str, str], Path]
OTHERS = [word for word in WORDS if word != "sphinx"]


def squad(count: int, seed: int, longest: int, answered: bool = True) -> str:
    """Contexts with one `sphinx`, which is the answer to every question."""
    draw = random.Random(seed)
    paragraphs = []
    for number in range(count):
        words = draw.choices(OTHERS, k=draw.randint(3, longest))
        words.insert(draw.randrange(len(words)), "sphinx")
        context = " ".join(words)
        answers = [{"text": "sphinx" if answered else "", "answer_start": f" {context} ".index(" sphinx ")}]
        paragraphs.append(
            {"context": context, "qas": [{"id": f"q{number}", "question": "judge my vow", "answers": answers}]}
        )
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]})


def test_a_tiny_task_is_learned_over_windows_and_written_in_xtremes_layout(
    use: Callable[..., Done], write: Write, model_dir: Path, tmp_path: Path
) -> None:
    train, dev = write("train-en.json", squad(150, 1, 40)), write("dev-en.json", squad(20, 2, 40))
    files = [write("xquad.de.json", squad(30, 3, 40)), write("xquad.hi.json", squad(30, 3, 40, answered=False))]
    done = use(
        "finetune", "qa", model_dir, "--train", train, "--dev", dev, "--test", *files, "--out", tmp_path / "out",
        "--epochs", 8, "--max-length", 100, "--stride", 16, *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "contexts cut into windows" in done.err
    files_written = [tmp_path / "out" / "predictions" / "xquad" / f"test-{language}.json" for language in ("de", "hi")]
    text = files_written[0].read_text(encoding="utf-8")
    answers = json.loads(text)
    assert list(answers) == [f"q{number}" for number in range(30)]
    assert text == json.dumps(answers, indent=1) + "\n" == files_written[1].read_text(encoding="utf-8")
    scores = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["summary"]["mean"]
    exact = 100 * sum(answer == "sphinx" for answer in answers.values()) / 30
    assert scores["exact_match"]["mean"] == pytest.approx(exact) and scores["f1"]["mean"] >= exact >= 85


def test_answers_are_labelled_in_the_windows_that_hold_them_whole(model_dir: Path) -> None:
    task, tokenizer = QuestionAnswering(), read_start(model_dir).tokenizer
    words = OTHERS * 4
    words[50:50] = ["sphinx", "of", "quartz"]
    context = " ".join(words)
    item = Question("1", "judge my vow", context, ["sphinx of quartz"], context.index("sphinx of quartz"))
    settings = replace(task.defaults, max_length=100, stride=24)
    features = task.features([item], tokenizer, settings, with_labels=True)
    held = [(row, place) for row, place in zip(features.rows, features.places, strict=True) if row["start_positions"]]
    assert 1 <= len(held) < len(features.rows) and max(len(row["input_ids"]) for row in features.rows) <= 100
    for row, (_, offsets) in held:
        first, last = row["start_positions"], row["end_positions"]
        assert context[offsets[first][0] : offsets[last][1]].strip() == "sphinx of quartz"
    covered = {i for _, offsets in features.places for first, last in offsets if first >= 0 for i in range(first, last)}
    assert {i for i, character in enumerate(context) if character != " "} <= covered, "nothing of the context is lost"


def test_the_best_span_is_in_the_context_in_order_and_not_too_long() -> None:
    offsets = [(-1, -1), (-1, -1), *[(i, i + 1) for i in range(50)]]
    start, end = np.zeros(52), np.zeros(52)
    start[0] = end[0] = 100.0  # <s>
    end[3] = 9.0  # before any start that is likely
    start[5], end[5 + ANSWER_TOKENS] = 8.0, 10.0  # too long
    start[40], end[41] = 9.0, 2.5
    assert best_span(start, end, offsets) == (11.5, 38, 40)
    assert best_span(start[:2], end[:2], offsets[:2]) is None


def test_a_long_question_is_cut_and_counted(model_dir: Path) -> None:
    task, tokenizer = QuestionAnswering(), read_start(model_dir).tokenizer
    item = Question("1", " ".join(["judge"] * 100), "the quick fox", ["fox"], 10)
    features = task.features([item], tokenizer, replace(task.defaults, max_length=100, stride=16), with_labels=False)
    assert features.notes["questions cut after 64 tokens"] == 1
    assert len(features.rows[0]["input_ids"]) <= 100
    with pytest.raises(ValueError, match=r"--max-length 80: too short .* give at least 85"):
        task.features([item], tokenizer, replace(task.defaults, max_length=80, stride=16), with_labels=False)
