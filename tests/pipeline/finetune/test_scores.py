"""Scores against counts done by hand, and against the rules of conlleval, seqeval and SQuAD."""

from __future__ import annotations

import pytest

from pipeline.finetune.tasks.scores import accuracy, answer_f1, exact_match, normalised, span_f1, spans


def test_accuracy_is_the_share_of_equal_ones() -> None:
    assert accuracy(["a", "b", "c", "d"], ["a", "x", "c", "x"]) == 50.0


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("O B-PER I-PER O B-LOC", [("PER", 1, 2), ("LOC", 4, 4)]),
        ("B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # IOB1, or a tagger's mistake
        ("B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),
        ("S-PER B-LOC I-LOC E-LOC O", [("PER", 0, 0), ("LOC", 1, 3)]),
        ("B-MISC-X I-MISC-X", [("MISC-X", 0, 1)]),
        ("O O", []),
        ("", []),
        ("X X NOUN NOUN VERB", [("_", 0, 1), ("OUN", 2, 3), ("ERB", 4, 4)]),  # seqeval on POS tags, as in XTREME
        ("SYM SYM ADJ", [("YM", 0, 0), ("YM", 1, 1), ("DJ", 2, 2)]),
    ],
)
def test_spans_are_those_of_conlleval(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == found


def test_span_f1_counts_whole_spans_over_all_sentences() -> None:
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O", "B-ORG"]]
    predicted = [["B-PER", "O", "O"], ["B-LOC", "O", "B-ORG"]]
    # 3 spans each, 2 of them the same: half a name is no name
    assert span_f1(gold, predicted) == pytest.approx(100 * 2 / 3)
    assert span_f1(gold, gold) == 100.0
    assert span_f1([["O"]], [["O"]]) == 0.0


def test_span_f1_of_pos_tags_is_seqeval_s_where_a_sentence_begins_with_x() -> None:
    gold = [["VERB", "NOUN", "SYM"], ["ADJ", "ADP", "SCONJ", "VERB", "NOUN"], ["X", "PUNCT"]]
    predicted = [["VERB", "NOUN", "SYM"], ["ADJ", "PUNCT", "SCONJ", "VERB", "VERB"], ["X", "PUNCT"]]
    # seqeval 1.2.2: X is no span of its own, but of the last word before it as well, which was tagged as another
    assert span_f1(gold, predicted) == pytest.approx(63.1578947368421)


def test_answers_are_compared_as_in_squad() -> None:
    assert normalised("The  Denver Broncos'!") == ["denver", "broncos"]
    assert exact_match("the Denver Broncos.", ["Broncos", "Denver Broncos"]) == 1.0
    assert exact_match("Denver", ["Broncos", "Denver Broncos"]) == 0.0
    assert answer_f1("Denver", ["Broncos", "Denver Broncos"]) == pytest.approx(2 / 3)
    assert answer_f1("a b b", ["b b c"]) == pytest.approx(0.8), (
        "the article is left out, words are counted as often as they occur"
    )
    assert answer_f1("", ["x"]) == 0.0
