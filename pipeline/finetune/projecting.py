"""Labels for another language: those of labelled sentences, carried over links to their translations.

Puts files of labels, links and the rules of `align.projection` together; knows no command and no model but an `Aligner`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.align.link_files import read_links
from pipeline.align.projection import Links, Projected, are_spans, project_spans, project_tags
from pipeline.finetune.files.inputs import Slice
from pipeline.finetune.files.read_tagged import Sentence, read_tagged
from pipeline.finetune.tasks.scores import accuracy, span_f1, spans
from pipeline.texts.lines import kind_of, read_lines
from pipeline.texts.word_splitting import split_words

SLASHED = ".upos"
LABELLED = (".conllu", SLASHED, ".tsv", ".conll", ".bio", ".iob", ".iob2")
"""Files of target words that are no lines of text."""
UNLINKED = "_"
"""Tag of words without links."""


@dataclass
class Labelled:
    """Labelled sentences, their translations, and the right labels of these where they are known."""

    source: list[Sentence]
    target: list[list[str]]
    gold: list[list[str]] | None
    as_spans: bool
    """Whether the labels mark spans, by `projection.are_spans`."""

    @property
    def pairs(self) -> Iterator[tuple[list[str], list[str]]]:
        """Source and target words."""
        return ((sentence.words, words) for sentence, words in zip(self.source, self.target, strict=True))


def read_labelled(
    source: Path, target: Path, gold: Path | None, column: int | None = None, part: Slice | None = None
) -> Labelled:
    """Read what is to be projected.

    Args:
        source: labelled sentences, see `read_tagged`.
        target: their translations: tokenised text, a sentence a line, or a file named as one of `LABELLED`.
        gold: the same words as `target`, with labels.
        column: of `source`, and of `gold` if it has columns, see `read_tagged`.
        part: these sentences alone.

    Raises:
        ValueError: a file cannot be read, `source` or `gold` has no labels, or they differ in their sentences.
    """
    sentences, words = _with_labels(source, column), _words(target)
    if len(words) == len(sentences) + 1 and not words[-1]:
        words.pop()
    if len(words) != len(sentences):
        raise ValueError(
            f"{source}: {len(sentences)} sentences, {target} has {len(words)}; sentence n of one must be the translation of "
            "sentence n of the other"
        )
    right = None if gold is None else _with_labels(gold, None if kind_of(gold) == SLASHED else column)
    if gold is not None and right is not None:
        _check_same_words(gold, right, target, words)
        right = right if part is None else part.of(right, gold)
    as_spans = are_spans([*chain.from_iterable(sentence.tags or [] for sentence in sentences)])
    if part is not None:
        sentences, words = part.of(sentences, source), part.of(words, target)
    return Labelled(sentences, words, None if right is None else [sentence.tags or [] for sentence in right], as_spans)


def _with_labels(path: Path, column: int | None) -> list[Sentence]:
    sentences = read_tagged(path, column)
    if sentences[0].tags is None:
        raise ValueError(f"{path}: has no labels; give lines `word<TAB>label`, or say which --column has them")
    return sentences


def _words(path: Path) -> list[list[str]]:
    if kind_of(path) in LABELLED:
        return [sentence.words for sentence in read_tagged(path)]
    return [split_words(line) for line in read_lines(path, "the translations, a sentence a line")]


def _check_same_words(gold: Path, right: Sequence[Sentence], target: Path, words: Sequence[list[str]]) -> None:
    if len(right) != len(words):
        raise ValueError(f"{gold}: {len(right)} sentences, {target} has {len(words)}; give the labels of its words")
    for number, (sentence, others) in enumerate(zip(right, words, strict=True), start=1):
        if sentence.words != others:
            raise ValueError(f"{gold}: sentence {number} has other words than {target}; give the labels of its words")


def links_of_file(
    path: Path, labelled: Labelled, texts: str, reverse: bool = False, part: Slice | None = None
) -> tuple[list[Links], list[str]]:
    """The links of every pair, and what was assumed in reading them.

    reverse: the file's links are (target, source). part: the file has links of all sentences, and these alone count.

    Raises:
        ValueError: `read_links` refuses the file, or a link lies outside of its sentences.
    """
    lengths = [(len(source), len(target)) for source, target in labelled.pairs]
    as_read = [(n, m) for m, n in lengths] if reverse else lengths
    if part is None:
        found = read_links(path, len(lengths), lengths=as_read, texts=texts)
        scored = found.scored
    else:
        found = read_links(path)
        scored = part.of(found.scored, path)
    for number, (of_pair, (m, n)) in enumerate(zip(scored, as_read, strict=True), start=1):
        for i, j in of_pair:
            if not (0 <= i < m and 0 <= j < n):
                raise ValueError(
                    f"{path}: the link {i}-{j} of pair {number} lies outside of its sentences of {m} and {n} words; give the "
                    "links of these sentences (--reverse: they are `target-source`)"
                )
    if reverse:
        return [{(j, i): score for (i, j), score in of_pair.items()} for of_pair in scored], found.notes
    return list(scored), found.notes


def project(labelled: Labelled, links: Iterable[Links], unlinked: str = UNLINKED) -> list[Projected]:
    """Labels for the words of every target sentence; `unlinked`: the tag of words without links, where labels are tags."""
    projected = []
    for sentence, words, of_pair in zip(labelled.source, labelled.target, links, strict=True):
        tags, count = sentence.tags or [], len(words)
        if labelled.as_spans:
            projected.append(project_spans(spans(tags), of_pair, count))
        else:
            projected.append(project_tags(tags, of_pair, count, unlinked))
    return projected


def summarise(labelled: Labelled, projected: Sequence[Projected]) -> dict[str, Any]:
    """What was projected, counted, and scores in per cent where the right labels are known."""
    labels = [of.labels for of in projected]
    unlinked = [*chain.from_iterable(of.unlinked for of in projected)]
    summary: dict[str, Any] = {
        "kind": "project",
        "labels": "spans" if labelled.as_spans else "tags",
        "sentences": len(projected),
        "words": len(unlinked),
    }
    if labelled.as_spans:
        summary["spans"] = sum(len(spans(sentence.tags or [])) for sentence in labelled.source)
        summary["lost"], summary["cut"] = (sum(getattr(of, name) for of in projected) for name in ("lost", "cut"))
    else:
        summary["unlinked"] = sum(unlinked)
    if labelled.gold is not None and labelled.as_spans:
        summary["f1"] = span_f1(labelled.gold, labels)
    elif labelled.gold is not None and unlinked:
        right, found = [*chain.from_iterable(labelled.gold)], [*chain.from_iterable(labels)]
        linked = [(a, b) for a, b, without in zip(right, found, unlinked, strict=True) if not without]
        summary["accuracy"] = accuracy(right, found)
        summary["accuracy_of_linked"] = accuracy([a for a, _ in linked], [b for _, b in linked]) if linked else 0.0
    return summary


def told(summary: dict[str, Any]) -> str:
    """The summary as a line."""
    parts = [f"{summary['sentences']:,} sentences, {summary['words']:,} target words"]
    if summary["labels"] == "spans":
        parts += [f"{summary['spans']:,} spans of the source"]
        parts += [f"{summary['lost']:,} of them lost, without links of their own"] if summary["lost"] else []
        parts += [f"{summary['cut']:,} of them without some linked words, which lie apart"] if summary["cut"] else []
    else:
        parts += [f"{summary['unlinked']:,} of these words have no link"]
    if "f1" in summary:
        parts += [f"F1 of spans {summary['f1']:.2f} %"]
    if "accuracy" in summary:
        parts += [f"accuracy {summary['accuracy']:.2f} %, of linked words {summary['accuracy_of_linked']:.2f} %"]
    return "; ".join(parts)
