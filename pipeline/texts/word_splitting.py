"""Text as words: tokenised text by its spaces, untokenised text by a rule that needs no language.

Knows characters; nothing of files, models or links.

Invisible characters, those of Unicode's category Cf (soft hyphens, direction marks, byte order marks), are no words and end
none: they stay where they are in the text, within the word beside them.
"""

from __future__ import annotations

import unicodedata

_INNER = "'’.,·-‐_"
"""Marks that stay inside a word when a letter or digit stands on both sides: don't, 3.14, e-mail."""
# Scripts that are written without spaces between words, by the first word of their characters' Unicode names.
_NO_SPACE = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "BOPOMOFO", "YI")
_JOINERS = "\u200c\u200d"
"""Invisible characters that choose how letters look and so belong to a word's spelling, in Persian or in Hindi."""
_VISIBLE_FORMAT = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Of category Cf, but printed: signs that enclose numbers."""


def is_invisible(character: str) -> bool:
    """Whether a character is of category Cf and leaves no mark."""
    if character < "\u00ad":  # the soft hyphen is the first of the category
        return False
    return unicodedata.category(character) == "Cf" and character not in _VISIBLE_FORMAT


def visible(word: str) -> str:
    """A word as a model is to read it: without invisible characters but joiners, which choose a letter's shape."""
    if word.isascii():
        return word
    return "".join(character for character in word if character in _JOINERS or not is_invisible(character))


def split_words(text: str) -> list[str]:
    """The words of tokenised text: what ASCII white space sets apart, as in gold files; others may stand within a word.

    What is invisible from end to end is no word and goes to the one before it (the first to the one after).
    """
    words = [word.decode() for word in text.encode().split()]
    return words if text.isascii() or all(map(_is_seen, words)) else _joined(words)


def _is_seen(word: str) -> bool:
    return not all(map(is_invisible, word))


def _joined(words: list[str]) -> list[str]:
    joined: list[str] = []
    before = ""
    for word in words:
        if _is_seen(word):
            joined.append(before + word)
            before = ""
        elif joined:
            joined[-1] += word
        else:
            before += word
    return joined


def split_raw(text: str) -> list[str]:
    """The words of untokenised text, by a rule that needs no language: no visible character but white space is lost.

    White space ends a word. A run of letters, digits and combining marks is a word; an apostrophe, full stop, comma,
    hyphen, middle dot or underscore stays in it between two letters or digits. In scripts without spaces (Chinese,
    Japanese, Thai, Lao, Khmer, Burmese, Tibetan, Yi) each letter with its combining marks is a word. Every other
    character is a word by itself, but for invisible ones.
    """
    words: list[str] = []
    joins = False  # whether the next letter goes to the last word
    apart = True  # whether white space, or nothing, stands before this character
    before = ""  # invisible characters at the beginning of a word
    for at, character in enumerate(text):
        if character.isspace():
            joins, apart = False, True
            continue
        if is_invisible(character):
            if apart:
                before += character
            else:
                words[-1] += character
            continue
        if _is_mark(character) and words and not apart:
            words[-1] += character
        elif character.isalnum():
            alone = is_written_without_spaces(character)
            if joins and not alone:
                words[-1] += character
            else:
                words.append(before + character)
            joins = not alone
        elif joins and character in _INNER and _continues(text, at + 1):
            words[-1] += character
        else:
            words.append(before + character)
            joins = False
        apart, before = False, ""
    if words:
        words[-1] += before
    return words


def _is_mark(character: str) -> bool:
    return character >= "\u0300" and unicodedata.category(character)[0] == "M"


def _continues(text: str, at: int) -> bool:
    while at < len(text) and is_invisible(text[at]):
        at += 1
    return at < len(text) and text[at].isalnum() and not is_written_without_spaces(text[at])


def is_written_without_spaces(character: str) -> bool:
    """Whether a character is of a script that puts no spaces between words."""
    if character < "\u0e00":  # Thai is the first of these scripts
        return False
    return unicodedata.name(character, "").split(" ")[0].split("-")[0] in _NO_SPACE
