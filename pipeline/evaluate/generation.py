"""How good texts are beside references: BLEU and chrF by sacrebleu, ROUGE-L by rouge-score, exact match, script, language.

Knows texts and codes of languages; nothing of models. The two libraries are the extra `generation`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from data_prep.filters.language_id import LanguageFilter, labels_of

INSTALL = "pip install sacrebleu rouge-score"
_NO_SPACES = ("ja", "th", "lo", "km", "my", "bo", "dz")
"""Languages without spaces between words, but Chinese, for which sacrebleu has rules of its own."""


@dataclass(frozen=True)
class GenerationScore:
    """In per cent, but `signature`. right_language: None where no language was given or the identifier does not know it."""

    bleu: float
    chrf: float
    rouge_l: float
    exact_match: float
    script: float
    right_language: float | None
    signature: str  # sacrebleu's, of BLEU: what must be equal for two scores to be compared

    def metrics(self) -> dict[str, float]:
        """The figures that there are."""
        found = {"bleu": self.bleu, "chrf": self.chrf, "rouge_l": self.rouge_l, "exact_match": self.exact_match}
        found |= {"script": self.script}
        return found | ({} if self.right_language is None else {"language": self.right_language})


def check_installed() -> None:
    """ValueError where a library is missing, before anything long begins."""
    for name in ("sacrebleu", "rouge_score"):
        _library(name)


def score_texts(texts: Sequence[str], references: Sequence[str], language: str | None = None) -> GenerationScore:
    """Scores of texts, one reference each.

    language: its code, such as `de` or `zh_Hans`, which chooses how words are found: sacrebleu's `13a`, its `zh` for Chinese,
        single characters where a language has no spaces. BLEU and chrF are of the corpus, the others means over texts.

    Raises:
        ValueError: there are no texts, or a library is missing.
    """
    if not texts:
        raise ValueError("there are no texts to be scored")
    sacrebleu = _library("sacrebleu")
    rules = _tokenizer_name(language)
    bleu = sacrebleu.BLEU(tokenize=rules)
    found = bleu.corpus_score(list(texts), [list(references)])
    chrf = sacrebleu.CHRF().corpus_score(list(texts), [list(references)])
    same = sum(text.split() == reference.split() for text, reference in zip(texts, references, strict=True))
    return GenerationScore(
        found.score,
        chrf.score,
        _rouge_l(texts, references, characters=rules != "13a"),
        100 * same / len(texts),
        same_script(texts, references),
        right_language(texts, language),
        str(bleu.get_signature()),
    )


def same_script(texts: Sequence[str], references: Sequence[str]) -> float:
    """Per cent of the texts most of whose letters are of a script that a tenth of the references' letters are of too.

    Tells languages apart where their scripts do, also those that no identifier knows; a text without letters counts as wrong.
    """
    letters = _scripts("".join(references))
    right = {script for script, count in letters.items() if 10 * count >= letters.total()}
    main = (_scripts(text).most_common(1) for text in texts)
    return 100 * sum(bool(found) and found[0][0] in right for found in main) / len(texts)


def _scripts(text: str) -> Counter[str]:
    """Letters by script, as Unicode's names of them begin with it: LATIN, HANGUL, CJK."""
    return Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())


def right_language(texts: Sequence[str], language: str | None) -> float | None:
    """Per cent of the texts that py3langid takes for the language or one that it cannot tell from it; texts without words are
    not. None: it does not know the language, or none was given."""
    if language is None or not labels_of(language):
        return None
    judge = LanguageFilter(language, 0.0)
    return 100 * sum(bool(text.strip()) and not judge.is_other(text) for text in texts) / len(texts)


def _tokenizer_name(language: str | None) -> str:
    base = (language or "").split("_")[0].split("-")[0]
    return "zh" if base == "zh" else "char" if base in _NO_SPACES else "13a"


def _rouge_l(texts: Sequence[str], references: Sequence[str], characters: bool) -> float:
    """Mean F1 of the longest common subsequence of words: lower case, runs of letters and digits of any script.

    On English it is rouge-score's without its stemmer; its own words are of the letters a to z alone.
    """
    _library("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words(characters))
    scores = [scorer.score(right, text)["rougeL"].fmeasure for text, right in zip(texts, references, strict=True)]
    return 100 * sum(scores) / len(scores)


class _Words:
    """A tokenizer as rouge-score wants it."""

    def __init__(self, characters: bool) -> None:
        import regex  # sacrebleu needs it

        self._word = regex.compile(r"[\p{L}\p{M}\p{N}]" + ("" if characters else "+"))

    def tokenize(self, text: str) -> list[str]:
        found: list[str] = self._word.findall(text.lower())
        return found


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(f"the package {name.replace('_', '-')} is not installed; {INSTALL}") from None
