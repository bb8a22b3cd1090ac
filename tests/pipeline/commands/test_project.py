"""`python -m pipeline project` and `symmetrize` as they are typed: files in, files out, counts, and mistakes in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.finetune.files.read_tagged import Sentence, read_tagged
from tests.pipeline.conftest import Done

Use = Callable[..., Done]
NAMES = "Ada\tB-PER\nLovelace\tI-PER\nwrites\tO\n\nMoscow\tB-LOC\n"
TARGET = "Ада Лавлейс пишет\nв Москве\n"
LINKS = "0-0 1-1 2-2\n0-1\n"
CONLL_2003 = (
    "-DOCSTART- -X- O O\n\nAda NNP B-NP B-PER\nLovelace NNP I-NP I-PER\nwrites VBZ B-VP O\n\nMoscow NNP B-NP B-LOC\n"
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return put


Write = Callable[[str, str], Path]


def test_spans_go_over_the_links_of_a_file(use: Use, write: Write, tmp_path: Path) -> None:
    files = write("en.tsv", NAMES), write("ru.txt", TARGET)
    out = tmp_path / "new" / "ru.tsv"
    done = use("project", *files, "--links", write("links", LINKS), "--out", out)
    assert done.code == 0, done.err
    assert out.read_text(encoding="utf-8") == "Ада\tB-PER\nЛавлейс\tI-PER\nпишет\tO\n\nв\tO\nМоскве\tB-LOC\n"
    assert done.err == "2 sentences, 5 target words; 2 spans of the source\n"
    printed = use("project", write("en.conll", CONLL_2003), files[1], "--column", -1, "--links", tmp_path / "links")
    assert printed.out == out.read_text(encoding="utf-8")
    turned = write("turned", "0-0 1-1 2-2\n1-0\n")
    assert use("project", *files, "--links", turned, "--reverse").out == printed.out


@pytest.mark.parametrize("kind", [".conllu", ".upos", ".tsv"])
def test_tags_are_written_as_they_are_read_and_scored(use: Use, write: Write, tmp_path: Path, kind: str) -> None:
    source = write("en.upos", "Ada/PROPN writes/VERB\nin/ADP Moscow/PROPN\n")
    target = write("ru.upos", "Ада/PROPN пишет/VERB\nв/ADP Москве/NOUN\n")
    out, scores = tmp_path / f"out{kind}", tmp_path / "scores.json"
    links = write("links", "0-0 1-1\n1-1\n")
    done = use(
        "project", source, target, "--links", links, "--gold", target, "--out", out, "--json", scores, "--unlinked", "X"
    )
    assert done.code == 0, done.err
    assert read_tagged(out) == [
        Sentence(["Ада", "пишет"], ["PROPN", "VERB"]),
        Sentence(["в", "Москве"], ["X", "PROPN"]),
    ]
    assert json.loads(scores.read_text()) == {
        "kind": "project",
        "labels": "tags",
        "sentences": 2,
        "words": 4,
        "unlinked": 1,
        "accuracy": 50.0,
        "accuracy_of_linked": pytest.approx(200 / 3),
    }
    assert "1 of these words have no link; accuracy 50.00 %, of linked words 66.67 %" in done.err
    second = use("project", source, target, "--links", links, "--gold", target, "--items", "2-2")
    assert second.out == "в\t_\nМоскве\tPROPN\n"


def test_a_model_gives_the_links_of_align(use: Use, write: Write, hf_dir: Path) -> None:
    source, target = write("en.tsv", NAMES), write("ru.txt", TARGET)
    text = write("en.txt", "Ada Lovelace writes\nMoscow\n")
    scored = use("align", hf_dir, text, target, "--scores")
    by_file = use("project", source, target, "--links", write("links", scored.out))
    by_model = use("project", source, target, "--model", hf_dir)
    assert by_model.code == 0 and by_model.out == by_file.out


MISTAKES = {
    "neither": ([], "give --links FILE or --model DIR, one of them"),
    "both": (["--links", "{links}", "--model", "m"], "give --links FILE or --model DIR, one of them"),
    "outside": (["--links", "{far}"], "far: the link 0-7 of pair 2 lies outside of its sentences of 1 and 2 words"),
    "too few": (["--links", "{short}"], "short: 1 lines, but 2 pairs in"),
    "a layer of a file": (["--links", "{links}", "--layer", "2"], "--layer: with --links no model aligns"),
    "a model turned": (["--model", "{links}", "--reverse"], "--reverse: is for --links"),
    "a tag beside spans": (["--links", "{links}", "--unlinked", "X"], "the labels are spans, and words in none are O"),
    "column": (["--links", "{links}", "--column", "1"], "--column 1: the first column is the word"),
    "no such column": (["--links", "{links}", "--column", "3"], "has 2 columns; --column 3 is not one"),
    "items": (["--links", "{links}", "--items", "2-3"], "has 2 items, --items asks for 2-3"),
    "gold": (["--links", "{links}", "--gold", "{source}"], "sentence 1 has other words than"),
    "spans in CoNLL-U": (["--links", "{links}", "--out", "a.conllu"], "none for spans; give a.tsv"),
    "out": (["--links", "{links}", "--out", "{links}"], "is an input too and would be overwritten"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(use: Use, write: Write, mistake: str) -> None:
    options, message = MISTAKES[mistake]
    files = {
        "source": write("en.tsv", NAMES),
        "links": write("links", LINKS),
        "far": write("far", "0-0\n0-7\n"),
        "short": write("short", "0-0\n"),
    }
    done = use("project", files["source"], write("ru.txt", TARGET), *(option.format(**files) for option in options))
    assert done.code == 1 and message in done.error


def test_sentences_must_be_as_many_and_have_labels(use: Use, write: Write) -> None:
    links, target = write("links", LINKS), write("ru.txt", TARGET + "ещё\n")
    done = use("project", write("en.tsv", NAMES), target, "--links", links)
    assert done.code == 1 and "en.tsv: 2 sentences, " in done.error and "has 3" in done.error
    done = use("project", write("bare.tsv", "Ada\nLovelace\n"), target, "--links", links)
    assert done.code == 1 and "has no labels; give lines `word<TAB>label`" in done.error


def test_symmetrize_joins_two_files(use: Use, write: Write) -> None:
    forward, backward = write("forward", "0-0 1-1 2-1\n0-0\n\n"), write("backward", "0-0 1-1\n0-0 0-1\n\n")
    done = use("symmetrize", forward, backward, "--method", "intersect")
    assert (done.code, done.out, done.err) == (0, "0-0 1-1\n0-0\n\n", "3 pairs: intersect\n")
    assert use("symmetrize", forward, backward).out == "0-0 1-1 2-1\n0-0 0-1\n\n"
    turned = write("turned", "0-0 1-1\n0-0 1-0\n\n")
    assert use("symmetrize", forward, turned, "--reverse").out == "0-0 1-1 2-1\n0-0 0-1\n\n"
    done = use("symmetrize", forward, write("short", "0-0\n"))
    assert (done.code, done.out) == (1, "0-0 1-1 2-1\n")
    assert "short has 1 lines, " in done.error and "forward has 3; the first 1 pairs were written" in done.error
    done = use("symmetrize", forward, write("no", "0-0\n0:0\n"))
    assert done.code == 1 and "no:2: '0:0' is not a link" in done.error
    assert use("symmetrize", "-", backward, stdin=forward.read_bytes()).out == "0-0 1-1 2-1\n0-0 0-1\n\n"
    done = use("symmetrize", "-", "-")
    assert done.code == 1 and "stdin cannot be both directions" in done.error
    done = use("symmetrize", forward, backward, "--method", "grow")
    assert done.code == 1 and "--method grow: choose intersect, union" in done.error
