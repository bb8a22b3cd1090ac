"""Scores of predictions: accuracy, F1 of spans, exact match and F1 of answers. All in per cent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

Span = tuple[str, int, int]


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of equal ones."""
    return 100 * sum(a == b for a, b in zip(gold, predicted, strict=True)) / len(gold)


def spans(tags: Sequence[str]) -> list[Span]:
    """(type, first word, last word) of every span of one sentence, read as conlleval and seqeval do by default.

    IOB2, IOB1 and IOBES; a tag that continues nothing begins a span. Tags without such a prefix count by seqeval's rule, a
    run of equal tags being a span (but each S… stands alone), which is how XTREME scores POS tags.
    """
    found: list[Span] = []
    begin, before, kind_before = 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        head, kind = tag[0], tag[1:].split("-", maxsplit=1)[-1] or "_"
        changed = kind != kind_before
        ends = before in "ES" or (before in "BI" and head in "BSO") or (before not in "O." and changed)
        begins = head in "BS" or (before in "ESO" and head in "EI") or (head not in "O." and changed)
        if ends:
            found.append((kind_before, begin, place - 1))
        if begins:
            begin = place
        before, kind_before = head, kind
    return found


def span_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """F1 over the spans of all sentences, to the last digit that of seqeval's `f1_score`; 0 where there are none.

    Sentences are read in one go with an O between them, as seqeval does. It tells: a bare tag of one letter (X, of Universal
    Dependencies) that begins a sentence is taken to go on with the last span before it.
    """
    expected, given = (
        set(spans([tag for tags in sentences for tag in (*tags, "O")])) for sentences in (gold, predicted)
    )
    return 200 * len(expected & given) / (len(expected) + len(given)) if expected or given else 0.0


def normalised(answer: str) -> list[str]:
    """Words of an answer as SQuAD v1.1 compares them: lower case, without ASCII punctuation and English articles."""
    kept = "".join(character for character in answer.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def exact_match(answer: str, right: Sequence[str]) -> float:
    """1 where the answer is one of the right ones."""
    return float(any(normalised(answer) == normalised(each) for each in right))


def answer_f1(answer: str, right: Sequence[str]) -> float:
    """The best F1 of words, as bags, with one of the right answers."""
    return max(_bag_f1(normalised(answer), normalised(each)) for each in right)


def _bag_f1(words: list[str], right: list[str]) -> float:
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right)) if common else 0.0
