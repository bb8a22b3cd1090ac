"""Labels over links: cases written by hand in several scripts, and what must always hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align.link_files import parse_pharaoh
from pipeline.align.projection import Links, are_spans, project_spans, project_tags
from pipeline.finetune.tasks.scores import spans


def links_of(text: str) -> Links:
    """`i-j`, or `i-j:score`."""
    scored = [link.partition(":") for link in text.split()]
    return {next(iter(parse_pharaoh(link)[1])): float(score or 0) for link, _, score in scored}


# source words with their labels, target words with those that they must get
BY_HAND = {
    "one to one, German": (
        "Angela/B-PER Merkel/I-PER visited/O Paris/B-LOC ./O",
        "Angela/B-PER Merkel/I-PER besuchte/O Paris/B-LOC ./O",
        "0-0 1-1 2-2 3-3 4-4",
    ),
    "another order, Japanese": (
        "Tanaka/B-PER lives/O in/O New/B-LOC York/I-LOC",
        "田中/B-PER は/O ニューヨーク/B-LOC に/O 住んで/O いる/O",
        "0-0 3-2 4-2 2-3 1-4 1-5",
    ),
    "a gap of an unlinked word is closed, Spanish": (
        "the/O Amazon/B-LOC basin/I-LOC",
        "la/O cuenca/B-LOC del/I-LOC Amazonas/I-LOC",
        "0-0 2-1 1-3",
    ),
    "a single word that is linked elsewhere is closed too, French": (
        "in/O the/O Oslo/B-ORG University/I-ORG library/O",
        "dans/O la/O bibliothèque/O de/O l'/O université/B-ORG d'/I-ORG Oslo/I-ORG",
        "0-0 1-1 4-2 3-5 0-6 2-7",
    ),
    "of parts that lie apart the longest is kept, Russian": (
        "World/B-ORG Health/I-ORG Organization/I-ORG said/O that/O",
        "Всемирная/B-ORG организация/I-ORG здравоохранения/I-ORG сказала/O что/O организация/O",
        "0-0 2-1 1-2 3-3 4-4 2-5",
    ),
    "two spans beside each other stay two, Arabic": (
        "Cairo/B-LOC Egypt/B-LOC",
        "القاهرة/B-LOC مصر/B-LOC",
        "0-0 1-1",
    ),
    "a word of two spans goes to the one with more links, Finnish": (
        "European/B-ORG Union/I-ORG Commission/B-ORG",
        "Euroopan/B-ORG unioni/I-ORG komissio/B-ORG",
        "0-0 1-1 2-1 0-1 2-2",
    ),
    "or with the higher score": (
        "European/B-ORG Union/I-ORG Commission/B-ORG",
        "Euroopan/B-ORG unioni/B-ORG komissio/I-ORG",
        "0-0:0.9 1-1:0.3 2-1:0.8 0-1:0.2 2-2:0.9",
    ),
    "IOBES becomes BIO, Chinese": ("Beijing/S-LOC University/O of/O", "北京/B-LOC 大学/O", "0-0 1-1"),
}


def words_and_labels(text: str) -> tuple[list[str], list[str]]:
    words, labels = zip(*(word.rsplit("/", 1) for word in text.split()), strict=True)
    return list(words), list(labels)


@pytest.mark.parametrize("case", BY_HAND)
def test_spans_by_hand(case: str) -> None:
    source, target, links = BY_HAND[case]
    labels = words_and_labels(target)[1]
    projected = project_spans(spans(words_and_labels(source)[1]), links_of(links), len(labels))
    assert projected.labels == labels


def test_spans_without_links_and_with_words_apart_are_counted() -> None:
    found = project_spans(
        [("PER", 0, 0), ("LOC", 1, 2), ("ORG", 3, 3)], {(1, 0): 0, (2, 3): 0, (0, 1): 0, (4, 2): 0}, 4
    )
    assert (found.labels, found.lost, found.cut) == (["B-LOC", "B-PER", "O", "O"], 1, 1)


TAGS = ["DET", "NOUN", "ADP", "NOUN"]


@pytest.mark.parametrize(
    ("links", "tags"),
    [
        ("0-0 1-1", ["DET", "NOUN", "_"]),
        ("0-0 1-0 3-0 2-1", ["NOUN", "ADP", "_"]),  # the most frequent of three
        ("2-0 1-0", ["NOUN", "_", "_"]),  # one each: the first source word's
        ("0-2:0.9 1-2:0.5 3-2:0.5", ["_", "_", "DET"]),  # the best score goes before the most frequent
    ],
)
def test_tags_by_hand(links: str, tags: list[str]) -> None:
    projected = project_tags(TAGS, links_of(links), 3, "_")
    assert projected.labels == tags
    assert projected.unlinked == [tag == "_" for tag in tags]


def test_labels_are_told_apart() -> None:
    assert are_spans(["O", "B-PER", "I-PER", "S-LOC"])
    assert not are_spans(["NOUN", "B-PER"])
    assert not are_spans(["O", "O"]) and not are_spans([]) and not are_spans(["B-", "O"])


LENGTH = 7
CELLS = st.tuples(st.integers(0, LENGTH - 1), st.integers(0, LENGTH - 1))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), min_size=LENGTH, max_size=LENGTH), st.data())
def test_every_span_has_one_or_no_target_span_of_its_kind_and_none_without_a_link(
    tags: list[str], data: st.DataObject
) -> None:
    links = data.draw(st.dictionaries(CELLS, st.sampled_from([0.25, 0.5, 1.0])))
    source = spans(tags)
    projected = project_spans(source, links, LENGTH)
    target = spans(projected.labels)
    assert len(target) == len(source) - projected.lost
    assert sorted(kind for kind, *_ in target) <= sorted(kind for kind, *_ in source) or projected.lost
    for kind, first, last in target:
        from_kind = {i for other, a, b in source if other == kind for i in range(a, b + 1)}
        ends = [any((i, word) in links for i in from_kind) for word in (first, last)]
        assert all(ends), "a span begins and ends with a linked word"
