"""Translations to train on, in the layout that XTREME publishes: what is read, and what is said to be left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.finetune.files.read_pairs import SentencePair
from pipeline.xtreme.catalog import TASKS
from pipeline.xtreme.transfer import Mode, read_material


def material(task: str, download: Path, folder: Path) -> Any:
    return read_material([TASKS[task]], download, {task: ["en"]}, Mode(translated=folder), False)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_have_the_translations_of_both_sentences_and_the_label(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'a\tb\t"ш\tщ\tcontradictory\na\tb\tъ\tы\tneutral\na\tb\tc\nx\ty\tz\tw\tmaybe\n'
    path = put(tmp_path / "XNLI/translate-train/en-ru-translated.tsv", text)
    made = material("xnli", download, tmp_path)
    assert made.trained == ["en", "ru"]
    assert made.train[-2:] == [SentencePair('"ш', "щ", "contradiction", 1), SentencePair("ъ", "ы", "neutral", 2)]
    told = f"note: {path}: 2 lines have not 5 columns, the last of them contradiction, entailment, neutral, and are left out"
    assert told in capsys.readouterr().err
    path.write_text("a\tb\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"1 lines have not 5 columns, .*; there is nothing to train on"):
        material("xnli", download, tmp_path)


def test_pawsx_has_the_same_form(download: Path, tmp_path: Path) -> None:
    put(tmp_path / "PAWSX/translate-train/en-ko-translated.tsv", "a\tb\tc\td\t1\n")
    assert material("pawsx", download, tmp_path).train[-1] == SentencePair("c", "d", "1", 1)


def squad(*questions: tuple[str, str, int]) -> str:
    qas = [{"id": n, "question": "?", "answers": [{"text": t, "answer_start": s}]} for n, t, s in questions]
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "один два", "qas": qas}]}]})


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("xquad", "SQuAD/translate-train/squad.translate.train.en-ru.json"),
        ("mlqa", "SQuAD/translate-train/squad.translate.train.en-zh.json"),
        ("tydiqa", "TyDiQA-GoldP/translate-train/tydiqa.translate.train.en-ru.json"),
    ],
)
def test_questions_whose_answers_do_not_stand_where_they_should_are_left_out(
    download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, name: str
) -> None:
    path = put(tmp_path / name, squad(("right", "два", 5), ("moved", "два", 4), ("none", "", 0), ("turned", "а", -1)))
    made = material(task, download, tmp_path)
    assert [item.id for item in made.train if item.context == "один два"] == ["right"]
    assert (
        f"{path}: 3 questions have no answer that stands at its answer_start, and are left out"
        in capsys.readouterr().err
    )


def test_a_file_of_ones_own_goes_first_and_tags_have_no_other(download: Path, tmp_path: Path) -> None:
    put(tmp_path / "PAWSX/translate-train/en-ko-translated.tsv", "a\tb\tc\td\t1\n")
    put(tmp_path / "pawsx/train-ko.tsv", "own\tpair\t0\n")
    assert material("pawsx", download, tmp_path).train[-1].first == "own"
    both = r"xnli/train-LANGUAGE.tsv or .*XNLI/translate-train/en-LANGUAGE-translated.tsv: no such file"
    with pytest.raises(ValueError, match=both):
        material("xnli", download, tmp_path)
    with pytest.raises(ValueError, match=r"udpos/train-LANGUAGE.tsv: no such file for any language of udpos"):
        material("udpos", download, tmp_path)
