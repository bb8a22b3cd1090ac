"""Sentences with ids, and pairs of them: what is read, and which line a mistake is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.texts.identified import read_gold_pairs, read_identified


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_ids_are_those_of_the_file_or_the_lines_numbers(tmp_path: Path) -> None:
    own = read_identified(write(tmp_path, "a.de", "de-1\tein Satz\nde-2\tnoch\teiner\nde-3\t\n"))
    assert (own.ids, own.texts, own.numbered) == (["de-1", "de-2", "de-3"], ["ein Satz", "noch einer", ""], False)
    plain = read_identified(write(tmp_path, "a.en", "one\n\ntwo\n"))
    assert (plain.ids, plain.texts, plain.numbered) == (["1", "2", "3"], ["one", "", "two"], True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.de: is empty; give an id, a tab and a sentence a line"),
        ("de-1\ta\nb\n", "a.de:2: has no tab, unlike the first line"),
        ("a\nde-1\tb\n", "a.de:2: has a tab, unlike the first line"),
        ("x\ta\ny\tb\nx\tc\n", "a.de:3: has the id 'x' of line 1; each sentence needs its own"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_identified(write(tmp_path, "a.de", text))


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ("s1\tt1\ns1\n", "gold:2: is 's1'; give a source id, a tab and a target id"),
        ("s9\tt1\n", "gold:1: .*a.de has no id 's9'; correct it"),
        ("s1\tt1\ns2\tt9\n", "gold:2: .*a.en has no id 't9'; correct it"),
        ("t1\ts1\n", r"gold:1: .*a.de has no id 't1' \(TARGET has it: the pairs may be the other way round\)"),
        ("", "gold: is empty"),
    ],
)
def test_gold_pairs_are_of_the_sentences(tmp_path: Path, gold: str, message: str) -> None:
    source = read_identified(write(tmp_path, "a.de", "s1\ta\ns2\tb\n"))
    target = read_identified(write(tmp_path, "a.en", "t1\ta\nt2\tb\n"))
    assert read_gold_pairs(write(tmp_path, "good", "s2\tt1\n"), source, target) == {("s2", "t1")}
    with pytest.raises(ValueError, match=message):
        read_gold_pairs(write(tmp_path, "gold", gold), source, target)
