"""Sentences with a tag for every word, written in the forms that `read_tagged` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TextIO

from pipeline.finetune.files.read_tagged import Sentence

_UNKNOWN = "_"


def write_tagged(sentences: Iterable[Sentence], stream: TextIO, kind: str) -> None:
    """Write sentences that have tags.

    kind: a file's suffix; `.conllu`: ten columns with the tag as UPOS, `.upos`: `word/TAG`, a sentence a line, any other:
        `word<TAB>tag` lines, a blank line between sentences.
    """
    form = _FORMS.get(kind, _columns)
    for number, sentence in enumerate(sentences):
        assert sentence.tags is not None, "what is written has tags"
        stream.write(form(sentence.words, sentence.tags, number == 0))


def _columns(words: list[str], tags: list[str], first: bool) -> str:
    return ("" if first else "\n") + "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))


def _slashed(words: list[str], tags: list[str], first: bool) -> str:
    return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True)) + "\n"


def _conllu(words: list[str], tags: list[str], first: bool) -> str:
    rows = enumerate(zip(words, tags, strict=True), start=1)
    empty = "\t".join([_UNKNOWN] * 6)
    return "".join(f"{number}\t{word}\t{_UNKNOWN}\t{tag}\t{empty}\n" for number, (word, tag) in rows) + "\n"


_FORMS: dict[str, Callable[[list[str], list[str], bool], str]] = {".conllu": _conllu, ".upos": _slashed}
