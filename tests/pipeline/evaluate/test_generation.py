"""Measures of texts: figures worked by hand or published by the libraries, what chooses the words, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.evaluate.generation import score_texts
from tests.pipeline.conftest import Done, use

__all__ = ["use"]

GERMAN = ["Der Hund läuft schnell über die Straße.", "Wir haben gestern einen neuen Wagen gekauft."]
ENGLISH = ["The dog runs quickly across the street.", "We bought a new car yesterday."]


def test_texts_that_equal_their_references_are_perfect() -> None:
    score = score_texts(GERMAN, GERMAN, "de")
    assert score.metrics() == pytest.approx(
        {"bleu": 100, "chrf": 100, "rouge_l": 100, "exact_match": 100, "script": 100, "language": 100}
    )


def test_bleu_is_sacrebleus_of_the_corpus() -> None:
    """The geometric mean of the shares of equal n-grams, which are counted here; there is no brevity penalty."""
    score = score_texts(["a b c d e f g x"], ["a b c d y f g z"], None)
    shares = [6 / 8, 4 / 7, 2 / 6, 1 / 5]
    expected = 100 * (shares[0] * shares[1] * shares[2] * shares[3]) ** 0.25
    assert score.bleu == pytest.approx(expected)
    assert "tok:13a" in score.signature and "version:" in score.signature


def test_rouge_l_is_the_mean_f1_of_the_longest_common_subsequence() -> None:
    score = score_texts(["The cat sat", "x"], ["the, cat was here!", "y"])
    precision, recall = 2 / 3, 2 / 4
    assert score.rouge_l == pytest.approx(100 * (2 * precision * recall / (precision + recall)) / 2)
    assert score.exact_match == 0 and score.right_language is None


@pytest.mark.parametrize(
    ("language", "text", "reference", "tokenizer"),
    [
        ("ru", "кошка сидит дома", "кошка спит дома", "13a"),
        ("hi", "बिल्ली घर में है", "बिल्ली पेड़ पर है", "13a"),
        ("zh", "我们昨天买车", "我们今天买车", "zh"),
        ("ja", "昨日車を買った", "今日車を買った", "char"),
    ],
)
def test_words_of_every_script_count(language: str, text: str, reference: str, tokenizer: str) -> None:
    score = score_texts([text], [reference], language)
    assert f"tok:{tokenizer}" in score.signature
    assert 0 < score.rouge_l < 100


def test_the_share_in_the_right_language_counts_others_and_empty_texts_as_wrong() -> None:
    assert score_texts([*GERMAN, *ENGLISH], [*GERMAN, *GERMAN], "de").right_language == 50
    assert score_texts([GERMAN[0], ""], GERMAN, "de").right_language == 50
    assert score_texts(GERMAN, GERMAN, "qaa").right_language is None


@pytest.mark.parametrize(
    ("text", "references", "share"),
    [
        ("кошка", ["дом"], 100),
        ("cat", ["дом"], 0),
        ("", ["дом"], 0),
        ("...", ["дом"], 0),
        ("кошка a", ["дом"], 100),
        ("кот abcd", ["дом"], 0),
        ("漢字", ["ひらがなと漢字"], 100),  # kanji alone are Japanese too
        ("ひらがな", ["漢字漢字"], 0),
        ("дом", ["..."], 0),
    ],
)
def test_the_script_of_most_letters_is_one_of_the_references(text: str, references: list[str], share: float) -> None:
    assert score_texts([text], references).script == share


def test_the_command_prints_and_writes_what_the_measures_say(use: Callable[..., Done], tmp_path: Path) -> None:
    texts, references, out = tmp_path / "out.de", tmp_path / "ref.de", tmp_path / "scores.json"
    texts.write_text("\n".join([GERMAN[0], ENGLISH[1]]) + "\n", encoding="utf-8")
    references.write_text("\n".join(GERMAN) + "\n", encoding="utf-8")
    done = use("score-text", texts, references, "--language", "de", "--json", out)
    assert done.code == 0, done.err
    (entry,) = json.loads(out.read_text(encoding="utf-8"))
    assert entry["kind"] == "score-text" and entry["texts"] == 2
    assert entry["exact_match"] == entry["right_language"] == 50
    assert f"{entry['bleu']:.2f}" in done.out and "BLEU: nrefs:1" in done.err


def test_unequal_files_and_a_missing_library_are_one_line(
    use: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("x\ny\n")
    (tmp_path / "b").write_text("x\n")
    done = use("score-text", tmp_path / "a", tmp_path / "b")
    assert done.code == 1 and "2 lines, " in done.error and "has 1; line n of one" in done.error
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    done = use("score-text", tmp_path / "b", tmp_path / "b")
    assert done.error.startswith("error: the package sacrebleu is not installed; pip install sacrebleu rouge-score")
