"""Scores are those of XTREME's and MLQA's scripts, whose rules are written here again and in another way."""

from __future__ import annotations

import json
import re
import string
import sys
import unicodedata
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.xtreme import test_sets
from pipeline.xtreme.catalog import TASKS
from pipeline.xtreme.mlqa import LANGUAGES, mlqa_scores, mlqa_words
from pipeline.xtreme.submission import prediction_path, problems, read_predictions, score

PUNCTUATION = {chr(code) for code in range(sys.maxunicode) if unicodedata.category(chr(code))[0] == "P"}


def words_by_definition(answer: str, language: str) -> list[str]:
    """MLQA's rules, character by character and word by word."""
    kept = "".join(c for c in answer.lower() if c not in PUNCTUATION and c not in string.punctuation)
    if language == "ar":
        kept = " ".join(kept.split("ال"))
    articles = {
        "en": "a an the",
        "es": "un una unos unas el la los las",
        "de": "ein eine einen einem eines einer der die das den dem des",
        "vi": "của là cái chiếc những",
    }.get(language, "")
    # a word of a regular expression is a run of \w, which may stand beside signs that are no spaces
    runs = re.split(r"(\w+)", kept)
    kept = "".join(" " if run in articles.split() else run for run in runs)
    if language == "zh":
        kept = "".join(f" {c} " if "\u4e00" <= c <= "\u9fa5" else c for c in kept)
    return kept.split()


ADVERSARIAL = [
    "The the THE cat",
    "theatre, a-the b",
    "an_a the_",
    "Der Der derart  das\u00a0Haus",
    "¿El ellos?  LA\tlas",
    "của chiếc lá, là",
    "ال الكتاب وال",
    "中国,北京ABC def。一a二",
    "“quoted” — dash… «guillemets» ।",
    "हिन्दी का।",
    "a\u200ban the\u2028one",
    "$100 + 5% = €7",
    "ＡＢＣ the",
    "İstanbul ẞ the",
    "",
    "...",
]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("text", ADVERSARIAL)
def test_words_of_answers_are_mlqas_on_adversarial_strings(language: str, text: str) -> None:
    assert mlqa_words(text, language) == words_by_definition(text, language)


@settings(max_examples=300)
@given(st.sampled_from(LANGUAGES), st.text(st.sampled_from("aAntheдال中国一。,-_ \u00a0'eldrчявi9"), max_size=24))
def test_words_of_answers_are_mlqas_on_any_string(language: str, text: str) -> None:
    assert mlqa_words(text, language) == words_by_definition(text, language)


def test_mlqa_counts_what_squad_does_not() -> None:
    assert mlqa_scores("das Haus", ["Haus"], "de") == (1.0, 1.0)
    assert mlqa_scores("北京市", ["北京"], "zh") == (0.0, pytest.approx(2 * 2 / 5))
    assert mlqa_scores("", ["x"], "en") == (0.0, 0.0)
    with pytest.raises(ValueError, match="ko: MLQA has no rules for it"):
        mlqa_words("x", "ko")


def asked(download: Path, name: str, language: str) -> test_sets.TestSet:
    return test_sets.read_test_set(TASKS[name], language, download, download / "labels")


def test_right_answers_have_full_scores_and_others_what_the_rules_say(download: Path) -> None:
    for name in TASKS:
        test = asked(download, name, "zh" if name == "mlqa" else "ru" if name != "pawsx" else "ko")
        gold = (
            {each: right[0] for each, right in test.gold.items()} if name in ("xquad", "mlqa", "tydiqa") else test.gold
        )
        assert set(score(test, gold).values()) == {100.0}, name
    mined = asked(download, "bucc2018", "ru")
    half = set(sorted(mined.gold)[:2])
    assert score(mined, half) == pytest.approx({"score": 200 / 3, "f1": 200 / 3, "precision": 100.0, "recall": 50.0})
    assert score(mined, set())["score"] == 0.0
    pos = asked(download, "udpos", "en")
    wrong = [["NOUN"] * len(tags) for tags in pos.gold]
    spans = [(i, tag, run) for i, tags in enumerate(pos.gold) for tag, run in runs_of(tags)]
    guessed = [(i, "NOUN", (0, len(tags))) for i, tags in enumerate(pos.gold)]
    both = Counter(spans) & Counter(guessed)
    assert score(pos, wrong)["score"] == pytest.approx(200 * sum(both.values()) / (len(spans) + len(guessed)))


def runs_of(tags: list[str]) -> list[tuple[str, tuple[int, int]]]:
    """Runs of equal tags: what seqeval takes for spans of tags without prefixes."""
    bounds = [i for i in range(len(tags) + 1) if i in (0, len(tags)) or tags[i] != tags[i - 1]]
    return [(tags[a], (a, b)) for a, b in pairwise(bounds)]


def write_right_answers(download: Path, out: Path) -> None:
    for name, task in TASKS.items():
        for language in task.languages:
            if not (download / task.test_of(language)).exists():
                continue
            path = prediction_path(out, task, language)
            path.parent.mkdir(parents=True, exist_ok=True)
            label = download / "labels" / name / path.name
            if task.kind == "qa":
                gold = asked(download, name, language).gold
                path.write_text(json.dumps({each: right[0] for each, right in gold.items()}), encoding="utf-8")
            else:
                path.write_bytes(label.read_bytes())


def test_a_whole_submission_is_accepted_and_each_damage_is_told_in_a_line(download: Path, tmp_path: Path) -> None:
    write_right_answers(download, tmp_path)
    tasks = list(TASKS.values())
    assert problems(tmp_path, download, tasks) == []
    damages = {
        "xnli/test-ru.tsv": ("entailment\n", "has 1 lines"),
        "udpos/test-ko.tsv": ("NOUN\n\n" * 4, "sentence 1 has 1 tags"),
        "xquad/test-zh.json": ("{", "not valid JSON"),
        "mlqa/test-en.json": ("{}", "has no answer to question mlqa-0"),
        "tatoeba/test-ko.tsv": ("99\n" * 12, ":1: '99' is no line of"),
        "bucc2018/test-ru.tsv": ("ru-1\ten-1\n", "is no pair of ids of"),
    }
    for name, (text, _) in damages.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pawsx" / "test-en.tsv").unlink()
    found = problems(tmp_path, download, tasks)
    assert len(found) == len(damages) + 1
    assert any("pawsx needs one for en" in line for line in found)
    for name, (_, told) in damages.items():
        assert any(name in line and told in line for line in found), (name, found)


def test_half_written_predictions_are_not_scored(download: Path, tmp_path: Path) -> None:
    write_right_answers(download, tmp_path)
    path = tmp_path / "panx" / "test-en.tsv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ValueError, match=r"test-en\.tsv: .* has "):
        read_predictions(path, asked(download, "panx", "en"))


def test_labels_of_another_test_set_are_refused(download: Path, tmp_path: Path) -> None:
    labels = tmp_path / "xnli"
    labels.mkdir()
    (labels / "test-en.tsv").write_text("neutral\n", encoding="utf-8")
    with pytest.raises(ValueError, match="are not as many as"):
        test_sets.read_test_set(TASKS["xnli"], "en", download, tmp_path)
