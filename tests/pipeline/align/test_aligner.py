"""The aligner as a library: what every call returns, and what is said of arguments that it cannot take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.align.aligner import Aligner
from pipeline.model import devices
from pipeline.model.devices import device_of

PAIRS = [("the quick brown fox", "der schnelle fuchs"), ("", "hund"), (["my", "box"], "den hund")]


@pytest.fixture(scope="module")
def aligner(hf_dir: Path) -> Aligner:
    return Aligner.load(hf_dir, 2)


def test_stream_gives_what_align_gives_pair_by_pair(aligner: Aligner) -> None:
    links = aligner.align(PAIRS)
    assert list(aligner.stream(iter(PAIRS))) == links
    assert isinstance(links[0], list) and links[0] and links[1] == []


def test_scores_are_given_where_they_are_asked_for_and_nowhere_else(aligner: Aligner) -> None:
    scored = aligner.align_scored(PAIRS)
    assert list(aligner.stream(PAIRS, scored=True)) == scored
    assert [list(links) for links in scored] == aligner.align(PAIRS)
    for pair, links in zip(PAIRS, scored, strict=True):
        cosines = aligner.similarities(pair) if links else []
        assert all(0 < score <= cosines[i][j] + 1e-5 for (i, j), score in links.items()), (
            "of the subwords that are linked"
        )


def test_raw_text_is_split_and_words_in_lists_are_not(aligner: Aligner) -> None:
    raw, words = ("Pack my box!", "der fuchs, 我的"), (["Pack", "my", "box", "!"], ["der", "fuchs", ",", "我", "的"])
    assert aligner.align([raw], raw=True) == aligner.align([words]) == aligner.align([words], raw=True)
    assert list(aligner.stream([raw], raw=True)) == aligner.align([words])
    assert aligner.align_scored([raw], raw=True) == aligner.align_scored([words])
    assert aligner.align([raw]) != aligner.align([words])
    assert len(aligner.similarities(raw, raw=True)) == 4


MISTAKES: dict[str, tuple[Any, str]] = {
    "a string": ("the house", """'the house' is no list of pairs; give pairs as [("the house", "das Haus")]"""),
    "a pair alone": (("the house", "das Haus"), "pair 0 is 'the house', not a source and a target; give pairs as"),
    "one side": ([("a", "b"), ("a",)], "pair 1 is ('a',), not a source and a target"),
    "three sides": ([("a", "b", "c")], "pair 0 is ('a', 'b', 'c'), not a source and a target"),
    "numbers": ([(1, 2)], "pair 0: the source is 1; give a string, or a list of words"),
    "bytes": ([("a", b"b")], "pair 0: the target is b'b'; give a string, or a list of words"),
    "a word that is none": ([(["a"], ["b", None])], "pair 0: the target has the word None; words are strings"),
    "nothing": ([("a", "b"), (None, "b")], "pair 1: the source is None"),
    "a long one": ([["word " * 100]], "pair 0 is ['word word"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_argument_is_told_with_its_place_and_what_to_give(aligner: Aligner, mistake: str) -> None:
    pairs, message = MISTAKES[mistake]
    for call in (aligner.align, aligner.align_scored, lambda pairs: list(aligner.stream(pairs))):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - looked at below
            call(pairs)
        assert message in str(caught.value) and len(str(caught.value)) < 200


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        assert device_of("auto") == torch.device(expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == torch.device("cuda", 1) and device_of(torch.device("cuda")).type == "cuda"
    with pytest.raises(ValueError, match="--device cuda:2: there are 2, from cuda:0; choose another, or auto"):
        device_of("cuda:2")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    assert devices.describe(torch.device("cuda", 1)) == "cuda:1 (H200)"
