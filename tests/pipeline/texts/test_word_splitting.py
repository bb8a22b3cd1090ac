"""Text as words: tokenised text by its spaces, untokenised text by a rule that needs no language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.raw_text import RawTextWatch
from pipeline.texts.word_splitting import is_invisible, split_raw, split_words, visible

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


INVISIBLE = st.sampled_from("\u00ad\u200b\u200d\u200e\u202b\u202c\ufeff\u2066\U000e0067")
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), INVISIBLE, st.sampled_from(" .,-'aé我ا")))


@given(TEXT)
def test_no_character_but_white_space_is_lost_and_no_word_is_empty_or_invisible(text: str) -> None:
    words = split_raw(text)
    assert "".join(words) == ("".join(text.split()) if words else "")
    assert all(visible(word).strip("\u200c\u200d") for word in words)
    if not words:
        assert all(character.isspace() or is_invisible(character) for character in text)


@given(TEXT)
def test_invisible_characters_change_no_word_and_no_number_of_words(text: str) -> None:
    for split in (split_raw, split_words):
        seen = [visible(word) for word in split(text)]
        if not set("\u200c\u200d") & set(text):
            assert seen == split(visible(text))


@given(TEXT)
def test_split_text_splits_the_same_again_as_tokenised_text(text: str) -> None:
    words = split_raw(text)
    assert split_words(" ".join(words)) == words


def test_words_are_apart_by_ascii_white_space_only() -> None:
    assert split_words("a\u00a0b c\t d\u3000e") == ["a\u00a0b", "c", "d\u3000e"]


@pytest.mark.parametrize(
    ("text", "raw", "tokenised"),
    [
        ("\ufeffthe house", ["\ufeffthe", "house"], ["\ufeffthe", "house"]),
        ("ein Donau\u00addampf\u00adschiff.", ["ein", "Donau\u00addampf\u00adschiff", "."], None),
        ("\u202bשלום עולם\u202c !", ["\u202bשלום", "עולם\u202c", "!"], ["\u202bשלום", "עולם\u202c", "!"]),
        ("a \u200b b", ["a", "\u200bb"], ["a\u200b", "b"]),
        ("\u200e x", ["\u200ex"], ["\u200ex"]),
        ("می\u200cخواهم", ["می\u200cخواهم"], ["می\u200cخواهم"]),
        ("\u200b \ufeff", [], []),
        ("\u0601 5", ["\u0601", "5"], ["\u0601", "5"]),  # a sign that is of the category, and printed
    ],
)
def test_format_characters_are_no_words_and_stay_in_their_place(
    text: str, raw: list[str], tokenised: list[str] | None
) -> None:
    assert split_raw(text) == raw
    if tokenised is not None:
        assert split_words(text) == tokenised


def notice(*pairs: tuple[str, str]) -> str | None:
    watch = RawTextWatch()
    for source, target in pairs:
        watch.look((split_words(source), split_words(target)))
    return watch.notice


def test_text_that_nobody_has_split_is_noticed() -> None:
    assert "'Hello,' is taken as one word; give --raw" in str(notice(("Hello, my friend.", "Hallo, mein Freund.")))
    assert "'truck.' is taken as one word" in str(notice(("a red truck.", "ein roter Lastwagen.")))
    assert "'我爱北京天安门，太阳升起" in str(notice(("I love Beijing", "我爱北京天安门，太阳升起。")))
    assert notice(("ประเทศไทยเป็นประเทศที่สวยงาม", "Thailand is beautiful .")) is not None


def test_tokenised_text_is_not_noticed() -> None:
    assert notice(("Mr. Smith , of St. Paul , left .", "Hr. Smith aus St. Paul ging .")) is None
    assert notice(("I love Beijing .", "我 爱 北京 天安门 。")) is None
    assert notice(*[("no marks at all", "gar keine Zeichen")] * 300) is None
    assert notice() is None


@pytest.mark.shared
def test_all_tokenised_gold_text_is_taken_as_tokenised_and_all_raw_text_is_not(shared_dir) -> None:
    data = shared_dir / "data"

    def lines(path) -> list[str]:
        return path.read_text(encoding="utf-8").splitlines()[:300]

    for folder in sorted((data / "gold_alignments_dev").iterdir()):
        if folder.is_dir():
            source, target = sorted(folder.glob("test.*"))
            assert notice(*zip(lines(source), lines(target), strict=True)) is None, folder.name
    english = data / "pud" / "pud.en"
    for other in ("de", "zh", "th", "ru", "fr", "ko"):
        assert notice(*zip(lines(english), lines(data / "pud" / f"pud.{other}"), strict=True)), other
