"""Files, their languages, and readers of the three formats."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.finetune.files.inputs import Slice, TaskFile, parse_tests
from pipeline.finetune.files.read_pairs import SentencePair, read_pairs
from pipeline.finetune.files.read_squad import check_answers, read_squad
from pipeline.finetune.files.read_tagged import Sentence, read_tagged

Write = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("test-de.tsv", "de"),
        ("pud.zh.upos", "zh"),
        ("xquad.el.json", "el"),
        ("test-context-de-question-de.json", "de"),
        ("tydiqa.goldp.sw.dev.json", "sw"),
    ],
)
def test_a_name_tells_the_language(write: Write, name: str, language: str) -> None:
    assert TaskFile.parse(str(write(name, "x"))).language == language


def test_a_language_may_be_written_before_the_file(write: Write) -> None:
    path = write("squad.json", "x")
    assert TaskFile.parse(f"ceb={path}") == TaskFile(path, "ceb")
    assert TaskFile.parse(f"zh-Hant={path}").language == "zh-Hant"
    assert TaskFile.parse(str(write("de=x.tr.tsv", "x"))).language == "tr", "a file of that name goes first"


def test_wrong_file_names_are_told(write: Write, tmp_path: Path) -> None:
    path = write("train-v1.1.json", "x")
    with pytest.raises(ValueError, match=r"train-v1\.1\.json: its name tells no language; .* as in de="):
        TaskFile.parse(str(path))
    with pytest.raises(ValueError, match="'German' is no language code"):
        TaskFile.parse(f"German={path}")
    with pytest.raises(ValueError, match=r"nowhere-de\.tsv: no such file"):
        TaskFile.parse(str(tmp_path / "nowhere-de.tsv"))
    with pytest.raises(ValueError, match=r"b-de\.tsv: of language de, as .*a-de.tsv; give one test file a language"):
        parse_tests([str(write("a-de.tsv", "x")), str(write("b-de.tsv", "x"))])


def test_parts_count_from_one_and_include_the_last(tmp_path: Path) -> None:
    part = Slice.parse("--train-items", "2-3")
    assert part is not None and part.of("abcd", tmp_path) == ["b", "c"]
    assert Slice.parse("--train-items", None) is None
    for wrong in ("3-2", "0-2", "2", "a-b", "-3"):
        with pytest.raises(ValueError, match=f"--test-items {wrong}: give FIRST-LAST, counted from 1"):
            Slice.parse("--test-items", wrong)
    with pytest.raises(ValueError, match=r"f\.tsv: has 2 items, --train-items asks for 2-3"):
        part.of("ab", Path("f.tsv"))


def test_tagged_sentences_in_columns(write: Write) -> None:
    # a no-break space and a line separator are part of a token, as they occur in treebanks
    path = write("test-fr.tsv", "a\u00a0b\tNOUN\r\n.\tPUNCT\n\n\nc\u2028d\tX\n\n\n")
    assert read_tagged(path) == [
        Sentence(["a\u00a0b", "."], ["NOUN", "PUNCT"]),
        Sentence([], []),
        Sentence(["c\u2028d"], ["X"]),
    ]
    assert read_tagged(write("test-en.tsv", "a\nb\n\nc")) == [Sentence(["a", "b"], None), Sentence(["c"], None)]


def test_tagged_sentences_with_slashes(write: Write) -> None:
    path = write("pud.en.upos", "1/2/NUM a/NOUN\n\n//PUNCT\n")
    assert read_tagged(path) == [Sentence(["1/2", "a"], ["NUM", "NOUN"]), Sentence([], []), Sentence(["/"], ["PUNCT"])]


CONLLU = """# sent_id = 1
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
2.1\tx\tx\tX\t_\t_\t_\t_\t_\t_

# text = !
1\t!\t!\tPUNCT\t_\t_\t0\troot\t_\t_

"""


def test_conllu_has_its_syntactic_words(write: Write) -> None:
    assert read_tagged(write("es_x-ud-test.conllu", CONLLU)) == [
        Sentence(["Vamos", "nos"], ["VERB", "PRON"]),
        Sentence(["!"], ["PUNCT"]),
    ]
    untagged = "\n".join(re.sub(r"\t(VERB|PRON|PUNCT)\t", "\t_\t", line) for line in CONLLU.split("\n"))
    assert read_tagged(write("es.conllu", untagged))[0] == Sentence(["Vamos", "nos"], None)
    half = CONLLU.replace("\tPUNCT\t", "\t_\t")
    with pytest.raises(ValueError, match=r"es.conllu: line 8: '!' has no tag, lines before have"):
        read_tagged(write("es.conllu", half))
    words = re.sub(r"^(\d+)\t\S+\t", r"\1\t_\t", CONLLU, flags=re.MULTILINE)
    with pytest.raises(ValueError, match=r"es.conllu: all words are _: the treebank has no text for its licence"):
        read_tagged(write("es.conllu", words))
    with pytest.raises(ValueError, match=r"es.conllu: line 2: .* has not the 10 columns of CoNLL-U, tabs apart"):
        read_tagged(write("es.conllu", CONLLU.replace("\t_\t_\n1\tVamos", "\t_\n1\tVamos")))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "", "a.tsv: is empty"),
        ("a.tsv", "\n \n", "a.tsv: is empty"),
        (
            "a.tsv",
            "a\tX\nb NOUN\n",
            "line 2: 'b NOUN' has no tag, lines before have; give tags to all tokens or to none",
        ),
        ("a.tsv", "a\n\nb\tX\n", "line 3: .* has a tag, lines before have none"),
        ("a.tsv", "a\tX\nb\tc\tX\n", r"line 2: 'b\\tc\\tX' is not a token, a tab and its tag"),
        ("a.tsv", "a\tX\n\tX\n", "line 2: .* is not a token, a tab and its tag"),
        ("a.tsv", "a\tX\nb\t\n", "line 2: .* is not a token, a tab and its tag"),
        ("a.upos", "a/X\nb/X c\n", "line 2: 'c' is not word/TAG"),
        ("a.upos", "a/X  b/X\n", "line 1: '' is not word/TAG"),
    ],
)
def test_wrong_tagged_files_are_told(write: Write, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tagged(write(name, text))


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"a\tX\n\xff\tX\n")
    with pytest.raises(ValueError, match=r"a\.tsv:2: byte 0xff at 0 is not UTF-8; if this file is Latin-1, convert it"):
        read_tagged(tmp_path / "a.tsv")


def test_pairs_keep_their_quotes_and_may_have_no_label(write: Write) -> None:
    path = write("test-en.tsv", '"a ""b"""\tc d\tneutral\r\ne\tf\tentailment\n')
    assert read_pairs(path) == [SentencePair('"a ""b"""', "c d", "neutral", 1), SentencePair("e", "f", "entailment", 2)]
    assert read_pairs(write("test-de.tsv", "a\tb\n")) == [SentencePair("a", "b", None, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\tx\na b\n", "line 2 has 1 columns; give sentence1, sentence2 and label, tabs apart"),
        ("a\tb\tx\ty\n", "line 1 has 4 columns"),
        ("a\tb\tx\nc\td\t \n", "line 2 has an empty label"),
        ("a\tb\tx\nc\td\n", "line 2 has no label, line 1 has one"),
        ("a\tb\nc\td\tx\n", "line 2 has a label, line 1 has none"),
        ("a\tb\tx\n\nc\td\tx\n", "line 2 has 1 columns"),
    ],
)
def test_wrong_pairs_are_told(write: Write, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pairs(write("a.tsv", text))


def squad(*questions: tuple[str, str, list[tuple[str, int]]], context: str = "the fox jumps") -> str:
    """SQuAD v1.1 with one context."""
    qas = [
        {"id": key, "question": text, "answers": [{"text": answer, "answer_start": start} for answer, start in answers]}
        for key, text, answers in questions
    ]
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]})


def test_questions_of_squad(write: Write) -> None:
    path = write("a.json", squad(("1", "who?", [("fox", 4), ("the fox", 0)]), ("2", "what?", [("jumps", 8)])))
    first, second = read_squad(path)
    assert (first.id, first.question, first.context) == ("1", "who?", "the fox jumps")
    assert (first.answers, first.start, second.start) == (["fox", "the fox"], 4, 8)
    check_answers(path, [first, second])


def test_an_empty_answer_is_none(write: Write) -> None:
    assert read_squad(write("a.json", squad(("1", "who?", [("", 0)]))))[0].answers == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not SQuAD v1.1: the file: Invalid JSON"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "not SQuAD v1.1: data.0.paragraphs.0.context: Field required"),
        ('{"data": []}', "has no question"),
        (squad(("1", "a", [("fox", 4)]), ("1", "b", [("fox", 4)])), "question 1 occurs twice"),
        (squad(("1", "a", [("fox", 4)]), ("2", "b", [])), "question 2 has no answer, others have"),
    ],
)
def test_wrong_squad_files_are_told(write: Write, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_squad(write("a.json", text))


def test_training_wants_answers_where_they_are_said_to_be(write: Write) -> None:
    path = write("a.json", squad(("7", "who?", [("fox", 3)])))
    with pytest.raises(ValueError, match=r"a\.json: question 7: 'fox' does not stand at answer_start 3; correct it"):
        check_answers(path, read_squad(path))
    path = write("b.json", squad(("7", "who?", [])))
    with pytest.raises(ValueError, match="question 7 has no answer to train on"):
        check_answers(path, read_squad(path))


def test_another_column_may_have_the_tag(write: Write) -> None:
    row = "{}\t{}\t_\tPROPN\t{}\t_\t0\troot\t_\tSpaceAfter=No\n"
    conllu = write(
        "en.conllu", row.format("1-2", "Ada's", "_") + row.format(1, "Ada", "NNP") + row.format(2, "'s", "POS")
    )
    assert read_tagged(conllu, 5) == [Sentence(["Ada", "'s"], ["NNP", "POS"])]
    assert read_tagged(conllu, -6) == read_tagged(conllu, 5)
    for column in (2, 0, 11, 14, -9, -12):
        with pytest.raises(ValueError, match=f"--column {column}: CoNLL-U has 10; give one from 3 on"):
            read_tagged(conllu, column)
    conll = write("en.conll", "-DOCSTART- -X- O\n\nAda NNP  B-PER\n\n\nruns VBZ O\n")
    assert read_tagged(conll, -1) == [Sentence(["Ada"], ["B-PER"]), Sentence([], []), Sentence(["runs"], ["O"])]
    assert read_tagged(conll, 2)[0] == Sentence(["Ada"], ["NNP"])
    with pytest.raises(ValueError, match="has word/TAG and no columns; leave --column out"):
        read_tagged(write("en.upos", "a/B"), 2)
