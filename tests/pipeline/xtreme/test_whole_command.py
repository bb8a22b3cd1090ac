"""The whole command on the miniature: killed in the middle, gone on with by two processes, and scored by the rules of XTREME,
written again."""

from __future__ import annotations

import json
import os
import re
import signal
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.xtreme.catalog import ROW, TASKS
from pipeline.xtreme.mlqa import mlqa_words
from tests.conftest import ROOT
from tests.pipeline.conftest import Done

QUICK = ["--layer", "1", "--device", "cpu", "--epochs", "1"]
PATIENCE_SECONDS = 300


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def spans(path: Path) -> set[tuple[int, int, str]]:
    """seqeval's, of all sentences with an O between them."""
    tags = [line or "O" for line in lines(path)] + ["O"]
    found = set()
    begin, kind = 0, ""
    for place, tag in enumerate(tags):
        prefixed = tag[:2] in ("B-", "I-")
        now = "" if tag == "O" else tag[2:] if prefixed else tag[1:]
        if kind and (now != kind or tag.startswith("B-")):
            found.add((begin, place, kind))
            kind = ""
        if now and not kind:
            begin, kind = place, now
    return found


def squad_words(text: str) -> list[str]:
    text = "".join(" " if c.isspace() else c for c in text.lower() if c not in string.punctuation)
    return [word for word in re.sub(r"\b(a|an|the)\b", " ", text).split(" ") if word]


def answers_score(task: str, language: str, predicted: Path, label: Path) -> tuple[float, float]:
    """(mean exact match, mean F1) of one right answer a question."""
    words: Callable[[str], list[str]] = squad_words
    if task == "mlqa":
        words = lambda text: mlqa_words(text, language)  # noqa: E731 (its own test has the rules)
    answers = json.loads(predicted.read_text(encoding="utf-8"))
    exact, f1 = [], []
    for article in json.loads(label.read_text(encoding="utf-8"))["data"]:
        (each,) = article["paragraphs"][0]["qas"]
        given, right = words(answers[each["id"]]), words(each["answers"][0]["text"])
        common = sum((Counter(given) & Counter(right)).values())
        exact.append(given == right)
        f1.append(2 * common / (len(given) + len(right)) if common else 0.0)
    return 100 * sum(exact) / len(exact), 100 * sum(f1) / len(f1)


def of_language(task: str, language: str, predicted: Path, label: Path) -> float:
    """The metric of one language as XTREME's evaluate.py has it; of question answering, the mean of both."""
    kind = TASKS[task].kind
    if kind == "qa":
        return sum(answers_score(task, language, predicted, label)) / 2
    if kind == "tag":
        gold, found = spans(label), spans(predicted)
        return 200 * len(gold & found) / (len(gold) + len(found))
    gold_lines, found_lines = lines(label), lines(predicted)
    if kind == "mine":
        right = len(set(gold_lines) & set(found_lines))
        return 200 * right / (len(gold_lines) + len(found_lines))
    assert len(gold_lines) == len(found_lines)
    return 100 * sum(a == b for a, b in zip(gold_lines, found_lines, strict=True)) / len(gold_lines)


def kill_after(marks: int, command: list[str], out: Path) -> None:
    """Start the command, and kill it once so many trials are finished."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + PATIENCE_SECONDS
    while len(list(out.glob("trials/*/*/*/done.json"))) < marks:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def check_scores(out: Path, labels: Path) -> None:
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in results["tasks"]] == list(TASKS)
    means: dict[str, float] = {}
    for task in results["tasks"]:
        name = task["name"]
        files = sorted((labels / name).iterdir())
        expected = {
            path.stem.removeprefix("test-"): of_language(
                name, path.stem.removeprefix("test-"), out / "predictions" / name / path.name, path
            )
            for path in files
        }
        found = {language: metrics["score"]["mean"] for language, metrics in task["languages"].items()}
        assert found == pytest.approx(expected), name
        means[name] = sum(expected.values()) / len(expected)
        if "en" in expected:
            others = [value for language, value in expected.items() if language != "en"]
            assert task["transfer_gap"] == pytest.approx(expected["en"] - sum(others) / len(others))
    assert results["average"]["mean"] == pytest.approx(sum(means[name] for name in ROW) / len(ROW))


def test_the_command_goes_on_where_it_was_killed_and_gives_the_row_of_all_nine_tasks(
    download: Path, model_dir: Path, tmp_path: Path, use: Callable[..., Done]
) -> None:
    out = tmp_path / "out"
    words = ["xtreme", str(model_dir), "--data", str(download), "--out", str(out), *QUICK]
    kill_after(2, [sys.executable, "-m", "pipeline", *words], out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/*/*/done.json")}
    damaged = next(iter(out.glob("trials/panx/*/*/predictions/panx/test-ko.tsv")))
    damaged.write_bytes(damaged.read_bytes()[:5])

    done = use(*words, "--jobs", "2")
    assert done.code == 0, done.err
    assert "[1] " in done.err and "[2] " in done.err and "exit code" not in done.err
    assert f"{damaged}: is not as it was written; it is done again" in done.err
    assert "udpos: lr" not in done.err and "panx: lr" in done.err and "xquad, mlqa: lr" in done.err
    kept = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(kept) == len(before) - 1
    assert not list(out.rglob("trainer"))

    check_scores(out, download / "labels")
    row = (out / "row.md").read_text(encoding="utf-8")
    for text in ("| XLM-Align base | 76.0 | 63.7 | 74.7 / 59.0 |", "- not as published: epochs 1", "| Koreanic |"):
        assert text in row
    assert (
        "XLM-E base" in done.out and "transfer gap" in done.out and "1 seed; the published rows are means" in done.out
    )
    assert r"\begin{tabular}" in (out / "row.tex").read_text(encoding="utf-8")
    assert (out / "languages.png").read_bytes().startswith(b"\x89PNG")
    checked = use("xtreme-check", str(out / "predictions"), "--data", str(download))
    assert checked.code == 0, checked.err

    settings: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))["tasks"][2]
    assert settings["source"] == "XTREME's scripts/train_*.sh" and settings["settings"]["warmup"] == 500
