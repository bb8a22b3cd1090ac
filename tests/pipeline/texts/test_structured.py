"""Pairs from CoNLL-U, JSON lines and TMX, and what is said of records that cannot be used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pipeline.texts.sentence_pairs import PairReader

CONLLU = """# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_
2.1\tempty\t_\t_\t_\t_\t_\t_\t_\t_

# sent_id = 2
1\t10 000\t_\tNUM\t_\t_\t0\troot\t_\t_

"""
TMX = """<?xml version="1.0"?><tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en-GB"><seg>the house</seg></tuv><tuv xml:lang="de"><seg>das <hi>Haus</hi></seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>alone</seg></tuv><tuv xml:lang="fr"><seg>seul</seg></tuv></tu>
<tu><tuv xml:lang="de"><seg>Hund</seg></tuv><tuv xml:lang="en"><seg>dog &amp; cat</seg></tuv></tu>
</body></tmx>"""
PAIRS = [(["the", "house"], ["das", "Haus"]), ([], []), (["dog", "&", "cat"], ["Hund"])]


def test_conllu_gives_its_syntactic_words_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "es.conllu").write_text(CONLLU + "\n\n", encoding="utf-8")
    (tmp_path / "en.txt").write_text("let us go\n10,000\n")
    reader = PairReader(tmp_path / "es.conllu", tmp_path / "en.txt")
    assert list(reader) == [(["Vamos", "nos"], ["let", "us", "go"]), (["10 000"], ["10,000"])]
    assert reader.is_split and reader.bytes_read == reader.size
    twice = list(PairReader(tmp_path / "es.conllu", tmp_path / "es.conllu"))
    assert [source for source, _ in twice] == [target for _, target in twice] == [["Vamos", "nos"], ["10 000"]]


def test_two_blank_lines_within_conllu_have_a_sentence_without_words_between_them(tmp_path: Path) -> None:
    (tmp_path / "a.conllu").write_text("\n".join([CONLLU, CONLLU]), encoding="utf-8")
    sides = [source for source, _ in PairReader(tmp_path / "a.conllu", tmp_path / "a.conllu")]
    assert sides == [["Vamos", "nos"], ["10 000"], [], ["Vamos", "nos"], ["10 000"]]


@pytest.mark.parametrize(
    ("records", "fields"),
    [
        ([{"source": "the house", "target": "das Haus"}, {"source": "", "target": "x"}], None),
        ([{"src": "the house", "tgt": "das Haus", "id": 3}, {"src": [], "tgt": ["x"]}], None),
        (
            [{"translation": {"en": ["the", "house"], "de": "das Haus"}}, {"translation": {"en": "", "de": "x"}}],
            ("translation.en", "translation.de"),
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_lines(tmp_path: Path, records: list[object], fields: tuple[str, str] | None, suffix: str) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    (tmp_path / f"a.jsonl{suffix}").write_bytes(gzip.compress(text) if suffix else text)
    reader = PairReader(tmp_path / f"a.jsonl{suffix}", fields=fields)
    assert list(reader) == [(["the", "house"], ["das", "Haus"]), ([], ["x"])]


def test_words_given_as_a_list_are_not_split_further(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"source": ["New York,", "is"], "target": "nach (NY)"}\n')
    assert list(PairReader(tmp_path / "a.jsonl", raw=True)) == [(["New York,", "is"], ["nach", "(", "NY", ")"])]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_translation_memory_has_a_pair_for_every_unit(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.tmx{suffix}").write_bytes(gzip.compress(TMX.encode()) if suffix else TMX.encode())
    reader = PairReader(tmp_path / f"a.tmx{suffix}", fields=("en", "de"))
    assert list(reader) == PAIRS
    assert reader.bytes_read == len(TMX)
    turned = PairReader(tmp_path / f"a.tmx{suffix}", fields=("de", "en"))
    assert list(turned) == [(target, source) for source, target in PAIRS]


def test_bad_records_are_set_aside_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"src": "a", "tgt": "b"}\nno\n{"src": 1, "tgt": "b"}\n[]\n{"src": "c", "tgt": "d"}\n'
    )
    reader = PairReader(tmp_path / "a.jsonl", max_bad_rate=0.9)
    assert list(reader) == [(["a"], ["b"]), ([], []), ([], []), ([], []), (["c"], ["d"])]
    assert (reader.bad.count, reader.bad.first.split(":")[1]) == (3, "2")
    (tmp_path / "a.tmx").write_text(TMX.replace("dog &amp; cat", "dog & cat"))
    memory = PairReader(tmp_path / "a.tmx", fields=("en", "de"), max_bad_rate=0.9)
    assert list(memory) == [PAIRS[0], ([], []), ([], [])]
    assert "unit 3 is not well formed" in memory.bad.first


MISTAKES = {
    "no JSON": ("a.jsonl", "x\n", None, r"a\.jsonl:1: is no JSON \(.*\); give an object a line"),
    "no fields": (
        "a.jsonl",
        '{"en": "a", "de": "b"}',
        None,
        "no text in source and target or src and tgt; it has en, de; name",
    ),
    "other fields": (
        "a.jsonl",
        '{"en": "a"}',
        ("en", "de"),
        "no text in en and de; it has en; name the two fields with --fields",
    ),
    "a line end in a word": ("a.jsonl", '{"src": ["a\\nb"], "tgt": "b"}', None, "no text in source and target or"),
    "deep JSON": ("a.jsonl", "[" * 100_000, None, "is no JSON"),
    "no languages": ("a.tmx", TMX, None, "name the languages of source and target with --fields, as in --fields en,de"),
    "absent language": (
        "a.tmx",
        TMX,
        ("en", "fi"),
        r"no unit has en and fi; its languages are de, en, en-GB, fr: name",
    ),
    "an entity": ("a.tmx", '<!DOCTYPE tmx [<!ENTITY a "b">]>' + TMX[21:], ("en", "de"), "entities are refused"),
    "no TMX": ("a.tmx", "<html/>", ("en", "de"), "a translation memory's is <tmx>"),
    "one side": ("a.conllu", CONLLU, None, "is one side by its name; give the file of its translations after it"),
    "fields of text": (
        "a.txt",
        "a ||| b",
        ("en", "de"),
        "--fields: .*a.txt has none; give it with a .jsonl or .tmx file",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_place_and_what_to_do(tmp_path: Path, mistake: str) -> None:
    name, text, fields, message = MISTAKES[mistake]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        list(PairReader(tmp_path / name, fields=fields))


def test_files_of_both_sides_are_given_alone_and_split_ones_are_not_raw(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.tmx", "a.conllu"):
        (tmp_path / name).write_text(CONLLU.replace("10 000\t", "", 1) if name == "a.conllu" else "x", encoding="utf-8")
    for name in ("a.jsonl", "a.tmx"):
        with pytest.raises(ValueError, match=f"{name}: holds both sides by its name; give it alone"):
            PairReader(tmp_path / "a.conllu", tmp_path / name)
    with pytest.raises(ValueError, match="is split into words already; --raw is for text that is not"):
        PairReader(tmp_path / "a.conllu", tmp_path / "a.conllu", raw=True)
    with pytest.raises(ValueError, match=r"a\.conllu:8: has not the 10 columns of CoNLL-U"):
        list(PairReader(tmp_path / "a.conllu", tmp_path / "a.conllu"))
