"""Tagging: every word has exactly one tag, wherever windows are cut; a tiny task is learned; the layout is XTREME's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.align.aligner import Aligner
from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.tagging import NO_LABEL, Tagging, cut, encode_words
from pipeline.weights.loading import load_model
from tests.pipeline.finetune.conftest import QUICK, WORDS, Done, conll, sentences, tag_of

Write = Callable[[str, str], Path]
Use = Callable[..., Done]


@given(st.integers(1, 20).flatmap(lambda room: st.tuples(st.just(room), st.lists(st.integers(1, room), max_size=80))))
def test_every_word_is_the_own_one_of_exactly_one_window(case: tuple[int, list[int]]) -> None:
    room, lengths = case
    windows = list(cut(lengths, room))
    owned = [word for _, _, own_first, own_end in windows for word in range(own_first, own_end)]
    assert owned == list(range(len(lengths)))
    for first, end, own_first, own_end in windows:
        assert first <= own_first <= own_end <= end
        assert sum(lengths[first:end]) <= room
    if sum(lengths) <= room:
        assert len(windows) == bool(lengths)


def test_words_in_windows_keep_context_on_both_sides() -> None:
    assert list(cut([1] * 10, 4)) == [(0, 4, 0, 3), (2, 6, 3, 5), (4, 8, 5, 7), (6, 10, 7, 10)]


def test_words_are_encoded_as_data_prep_encodes_them(model_dir: Path) -> None:
    tokenizer = read_start(model_dir).tokenizer
    ours = load_model(model_dir)[1]
    words = [*WORDS, "quickfox", "zzz", ",", "\u200b", "a b", "…"]
    assert encode_words(tokenizer, words) == [ours.encode_words([word])[0] for word in words]
    assert encode_words(tokenizer, []) == []


def test_the_first_subword_alone_has_a_label(model_dir: Path) -> None:
    task, tokenizer = Tagging(), read_start(model_dir).tokenizer
    task.labels = ["A", "B"]
    words = ["quick", "fox", "jumps"]
    settings = replace(task.defaults, max_length=64)
    features = task.features([Sentence(words, ["A", "B", "X"])], tokenizer, settings, with_labels=True)
    (row,) = features.rows
    lengths = [len(pieces) for pieces in encode_words(tokenizer, words)]
    assert max(lengths) > 1
    # a tag that training lacks has no label either
    expected = [
        label
        for length, number in zip(lengths, (0, 1, NO_LABEL), strict=True)
        for label in [number, *[NO_LABEL] * (length - 1)]
    ]
    assert row["labels"] == [NO_LABEL, *expected, NO_LABEL]
    assert len(row["input_ids"]) == len(row["labels"]) == 2 + sum(lengths)


def test_every_word_of_a_long_sentence_is_labelled_once_and_predicted_once(model_dir: Path) -> None:
    task, tokenizer = Tagging(), read_start(model_dir).tokenizer
    task.labels = sorted({tag_of(word) for word in WORDS})
    words = [word for row in sentences(40, seed=3) for word in row]
    long = Sentence(words, [tag_of(word) for word in words])
    huge = Sentence(["fox" * 300, "box"], ["EARLY", "EARLY"])
    features = task.features([long, huge], tokenizer, replace(task.defaults, max_length=32), with_labels=True)
    assert max(len(row["input_ids"]) for row in features.rows) <= 32
    assert features.notes == {"long sentences, tagged by windows": 2}
    assert sum(label != NO_LABEL for row in features.rows for label in row["labels"]) == len(words) + 2
    # a model that gives every labelled place its label gives every word its tag
    ordered = features.by_length()
    outputs = [row["labels"] for row in ordered.rows]
    assert task.predictions([long, huge], ordered, outputs) == [long.tags, huge.tags]


def test_a_tiny_task_is_learned_and_written_in_xtremes_layout(
    use: Use, write: Write, model_dir: Path, tmp_path: Path
) -> None:
    train, dev = write("train-en.tsv", conll(sentences(150, 1))), write("dev-en.tsv", conll(sentences(20, 2)))
    test = [["the", "quick", "fox"], [], ["box"], [word for row in sentences(60, 3) for word in row]]
    files = [
        write("test-en.tsv", conll(sentences(20, 4))),
        write("test-de.tsv", conll(test)),
        write("test-fr.tsv", conll(test, None)),
    ]
    done = use(
        "finetune", "tag", model_dir, "--train", train, "--dev", dev, "--test", *files, "--out", tmp_path / "out",
        "--epochs", 6, "--max-length", 64, *QUICK, "--lr", "5e-3",
    )  # fmt: skip
    assert done.code == 0, done.err
    out = tmp_path / "out"
    predicted = (out / "predictions" / "udpos" / "test-de.tsv").read_bytes()
    assert (out / "predictions" / "udpos" / "test-fr.tsv").read_bytes() == predicted, "labels are not needed to predict"
    tags = predicted.decode().split("\n")
    words = (tmp_path / "test-de.tsv").read_text(encoding="utf-8").split("\n")
    assert [tag in ("EARLY", "LATE") for tag in tags] == [bool(word) for word in words], "line by line"
    gold = [word.partition("\t")[2] for word in words]
    right = [a == b for a, b in zip(tags, gold, strict=True) if b]
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["summary"]["de"]["accuracy"]["mean"] == pytest.approx(100 * sum(right) / len(right)) and sum(
        right
    ) > 0.95 * len(right)
    assert set(results["summary"]) == {"de", "en", "mean"}, "fr has no labels"
    assert "de: 1 long sentences, tagged by windows" in done.err
    assert "mean without en" in done.out and "en (trained on)" in done.out
    assert (out / "model" / "model.safetensors").is_file() and not (out / "trainer").exists()
    assert Tokenizer.load(out / "model").sha256 == Tokenizer.load(model_dir).sha256, (
        "so that words can be aligned with it"
    )
    assert Aligner.load(out / "model").align([("the fox", "der fuchs")])[0]
    assert not list((out / "model").glob("*.bin")), "no pickle goes with it"
    modes = {path.stat().st_mode & 0o077 for path in (out / "model").iterdir()}
    assert len(modes) == 1, "what can be read of the model by others can be read whole"

    again = use("predict", out / "model", files[2], "--device", "cpu")
    assert again.code == 0, again.err
    assert [line.partition("\t")[::2] for line in again.out.split("\n")] == list(
        zip((word.partition("\t")[0] for word in words), tags, strict=True)
    ), "the model's folder alone predicts the same tags for words without labels"
    scored = use("predict", out / "model", files[1], "--device", "cpu")
    assert f"accuracy {results['summary']['de']['accuracy']['mean']:.2f}" in scored.err
    raw = write("raw.txt", "the fox, the box\n\nsphinx\n")
    told = use("predict", out / "model", raw, "--raw", "--device", "cpu")
    assert [line.split("\t")[0] for line in told.out.split("\n")] == [
        "the",
        "fox",
        ",",
        "the",
        "box",
        "",
        "",
        "sphinx",
        "",
    ]


def test_a_folder_that_finetune_did_not_write_predicts_nothing(use: Use, write: Write, model_dir: Path) -> None:
    done = use("predict", model_dir, write("a.tsv", "a\n"))
    assert done.code == 1
    assert done.error.endswith("finetune.json: no such file; give the folder `model` that finetune wrote")


def test_ctrl_c_leaves_nothing_that_blocks_the_next_start(
    use: Use, write: Write, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        place = arguments[-1]
        assert isinstance(place, Path)
        (place / "checkpoint-1").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.finetune.run.fine_tune", interrupted)
    train, test = write("train-en.tsv", conll(sentences(9, 1))), write("test-de.tsv", conll(sentences(3, 2)))
    done = use("finetune", "tag", model_dir, "--train", train, "--test", test, "--out", tmp_path / "out", *QUICK)
    assert done.code == 130
    assert not (tmp_path / "out").exists()


def entity_of(word: str) -> str:
    return "B-PER" if word[0] <= "d" else "B-LOC" if word[0] >= "s" else "O"


def test_entities_are_scored_by_f1_and_called_panx(use: Use, write: Write, model_dir: Path, tmp_path: Path) -> None:
    train, test = (
        write("en-train.tsv", conll(sentences(150, 1), entity_of)),
        write("de.tsv", conll(sentences(30, 5), entity_of)),
    )
    done = use(
        "finetune",
        "tag",
        model_dir,
        "--train",
        train,
        "--test",
        test,
        "--out",
        tmp_path / "out",
        "--epochs",
        6,
        *QUICK,
        "--lr",
        "5e-3",
    )
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["name"] == "panx" and results["summary"]["de"]["f1"]["mean"] > 85
    assert (tmp_path / "out" / "predictions" / "panx" / "test-de.tsv").is_file()


def test_parts_of_upos_files_and_several_seeds(use: Use, write: Write, model_dir: Path, tmp_path: Path) -> None:
    def upos(rows: list[list[str]]) -> str:
        return "".join(" ".join(f"{word}/{tag_of(word)}" for word in words) + "\n" for words in rows)

    english = write("pud.en.upos", upos(sentences(100, 1)))
    german = write("pud.de.upos", upos(sentences(100, 2)))
    arguments = [
        "finetune", "tag", model_dir, "--train", english, "--train-items", "1-70", "--dev", english, "--dev-items", "71-80",
        "--test", german, "--test", english, "--test-items", "81-100", "--epochs", 1, "--name", "pud", "--no-model", *QUICK,
    ]  # fmt: skip
    done = use(*arguments, "--out", tmp_path / "out", "--seeds", 2)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [one["seed"] for one in results["runs"]] == [1, 2]
    values = [one["scores"]["de"]["accuracy"] for one in results["runs"]]
    assert values[0] != values[1]
    spread = results["summary"]["de"]["accuracy"]
    assert spread["mean"] == pytest.approx(sum(values) / 2) and spread["sd"] == pytest.approx(
        abs(values[0] - values[1]) / 2**0.5
    )
    assert f"{spread['mean']:.2f} ± {spread['sd']:.2f}" in done.out
    predicted = tmp_path / "out" / "seed-2" / "predictions" / "pud" / "test-de.tsv"
    assert predicted.read_text().count("\n\n") == 19, "twenty sentences"
    assert not (tmp_path / "out" / "seed-2" / "model").exists()

    again = use(*arguments, "--out", tmp_path / "again", "--seed", 2)
    assert again.code == 0, again.err
    same = tmp_path / "again" / "predictions" / "pud" / "test-de.tsv"
    assert same.read_bytes() == predicted.read_bytes(), "a seed's run does not depend on the seeds before it"
