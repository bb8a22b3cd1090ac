"""Pairs from files, and raw text as words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.use.sentence_pairs import PairReader, split_raw, split_words

RAW = {
    "Don’t panic, it's 3.14%!": ["Don’t", "panic", ",", "it's", "3.14", "%", "!"],
    "«C'est l'e-mail»…": ["«", "C'est", "l'e-mail", "»", "…"],
    "我爱北京。": ["我", "爱", "北", "京", "。"],
    "東京タワーTokyo2020": ["東", "京", "タ", "ワ", "ー", "Tokyo2020"],
    "ภาษาไทย": ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"],
    "ที่นี่": ["ที่", "นี่"],
    "हिन्दी में": ["हिन्दी", "में"],
    "안녕하세요 세계": ["안녕하세요", "세계"],
    "a - b -- c-": ["a", "-", "b", "-", "-", "c", "-"],
    "e\u0301te\u0301": ["e\u0301te\u0301"],
    "": [],
    " \t ": [],
}


@pytest.mark.parametrize("text", RAW)
def test_raw_text_is_split_by_the_rule(text: str) -> None:
    assert split_raw(text) == RAW[text]


@given(st.text())
def test_no_character_but_white_space_is_lost_and_no_word_is_empty(text: str) -> None:
    words = split_raw(text)
    assert "".join(words) == "".join(character for character in text if not character.isspace())
    assert all(words)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_split_text_splits_the_same_again_as_tokenised_text(text: str) -> None:
    words = split_raw(text)
    assert split_words(" ".join(words)) == words


def test_words_are_apart_by_ascii_white_space_only() -> None:
    assert split_words("a\u00a0b c\t d\u3000e") == ["a\u00a0b", "c", "d\u3000e"]


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("a\u2028b\x0cc\r\nd\re\nf".encode())
    (tmp_path / "b").write_bytes(b"1\n2\n3")
    assert list(PairReader(tmp_path / "a", tmp_path / "b")) == [
        (["a\u2028b", "c"], ["1"]),
        (["d", "e"], ["2"]),
        (["f"], ["3"]),
    ]


def test_sides_may_be_empty_in_separated_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("||| x y\nz |||\n|||\n\na ||| b\n", encoding="utf-8")
    assert list(PairReader(tmp_path / "a")) == [([], ["x", "y"]), (["z"], []), ([], []), ([], []), (["a"], ["b"])]


@pytest.mark.parametrize("lines", [(3, 5), (5, 3), (0, 1)])
def test_unequal_files_are_told_with_both_numbers_after_all_pairs(tmp_path: Path, lines: tuple[int, int]) -> None:
    for name, count in zip("ab", lines, strict=True):
        (tmp_path / name).write_text("x\n" * count, encoding="utf-8")
    pairs = []
    with pytest.raises(ValueError, match=rf"has {min(lines)} lines, .* has {max(lines)};"):
        pairs.extend(PairReader(tmp_path / "a", tmp_path / "b"))
    assert len(pairs) == min(lines)
