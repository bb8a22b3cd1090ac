"""The pairs that are followed through a run: which ones, what is kept of them, and what a killed run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.tokenizers.template import XLM_R
from pipeline.align.word_alignment import WordAligner
from pipeline.evaluate.gold import Gold
from pipeline.run_folder import ALIGNMENTS
from pipeline.watch.alignment_record import ShownPair, align_shown, choose_pairs, read_alignments
from pipeline.weights.loading import load_model


class Letters:
    """A token a letter."""

    template = XLM_R

    def encode_words(self, words: list[str]) -> tuple[list[int], list[int]]:
        return [4 for word in words for _ in word], [at for at, word in enumerate(words) for _ in word]


def gold_of(*pairs: tuple[int, int, int]) -> Gold:
    """Pairs of so many source words, target words and sure links."""
    source, target = [["a"] * pair[0] for pair in pairs], [["b"] * pair[1] for pair in pairs]
    sure = [{(i, 0) for i in range(pair[2])} for pair in pairs]
    return Gold("en", "de", source, target, sure, sure, 0)


def chosen(count: int, longest_side: int = 99, **golds: Gold) -> list[tuple[str, int]]:
    return [pair.key for pair in choose_pairs(golds, count, Letters(), longest_side)]


def test_folders_take_turns_and_the_most_linked_short_pair_comes_first() -> None:
    a, b = gold_of((20, 5, 9), (5, 5, 1), (6, 4, 3)), gold_of((2, 2, 2))
    assert chosen(3, a=a, b=b) == [("a", 3), ("b", 1), ("a", 2)]
    assert chosen(9, a=a, b=b) == [("a", 3), ("b", 1), ("a", 2), ("a", 1)], (
        "then the long ones, and no more than there are"
    )
    assert chosen(0, a=a) == chosen(4) == []


def test_pairs_that_cannot_be_shown_whole_are_never_chosen() -> None:
    assert chosen(9, 4, a=gold_of((5, 2, 4), (0, 2, 0), (2, 0, 0), (4, 4, 1))) == [("a", 4)]


def test_what_is_recorded_is_read_back(hf_dir: Path, tmp_path: Path) -> None:
    encoder, tokenizer = load_model(hf_dir)
    pair = ShownPair(("en-de", 7), ["the", "fox"], ["der", "fuchs", "!"], {(0, 0)}, {(0, 0), (1, 1)})
    aligner = WordAligner(tokenizer, lambda packed: [encoder(packed, 2)])
    lines = [{"step": step, "layer": 2, "pairs": align_shown([pair], aligner)} for step in (0, 10, 20)]
    (tmp_path / ALIGNMENTS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    views, damaged = read_alignments(tmp_path, {0, 10})
    assert list(views) == [0, 10] and damaged == 0, "step 20 was done again and is not there yet"
    view = views[10]["en-de", 7]
    assert (view.source, view.target) == (pair.source, pair.target)
    assert (view.sure, view.possible) == (pair.sure, pair.possible)
    ((links,),) = aligner.align([(pair.source, pair.target)])
    assert list(view.links) == links
    for row, expected in zip(view.similarities, aligner.similarities((pair.source, pair.target)).tolist(), strict=True):
        assert row == pytest.approx(expected, abs=0.0051)


def recorded(step: int, word: str, **changes: object) -> str:
    pair = {"folder": "en-de", "line": 1, "source": [word], "target": ["b"], "sure": [[0, 0]], "possible": [[0, 0]]}
    pair |= {"links": [[0, 0]], "similarities": [[0.5]], **changes}
    return json.dumps({"step": step, "layer": 1, "pairs": [pair]})


@pytest.mark.parametrize(
    "damaged",
    ["", "{", "[]", '{"step": 1}', recorded(10, "x")[:-3], recorded(10, "x", similarities=[]), '{"pairs": []}'],
)
def test_the_last_line_of_a_step_counts_and_damaged_ones_are_counted(tmp_path: Path, damaged: str) -> None:
    lines = [recorded(10, "first"), recorded(20, "other"), damaged, recorded(10, "again")]
    (tmp_path / ALIGNMENTS).write_text("\n".join(lines), encoding="utf-8")
    views, count = read_alignments(tmp_path, {10, 20})
    assert {step: of_step["en-de", 1].source for step, of_step in views.items()} == {10: ["again"], 20: ["other"]}
    assert count == 1


def test_a_run_without_the_file_has_none(tmp_path: Path) -> None:
    assert read_alignments(tmp_path, {1}) == ({}, 0)
