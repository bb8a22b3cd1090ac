"""`python -m pipeline score`: any aligner's link files against gold, with scores worked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Done

Use = Callable[..., Done]

# Of gold_dir: sure 1-1, 3-3, 1-1 and 9-1 from 1, possible 2-2 beside them. Three of four links are sure, one is wrong.
LINKS = "0-0 2-2\n0-0 1-1\n\n"


def test_scores_are_printed_and_written(use: Use, gold_dir: Path, tmp_path: Path) -> None:
    links, out = tmp_path / "a.links", tmp_path / "new" / "scores.json"
    links.write_text(LINKS)
    done = use("score", links, "--gold", gold_dir, "--json", out)
    assert done.code == 0, done.err
    (entry,) = json.loads(out.read_text())
    assert entry == {
        "kind": "score",
        "file": str(links),
        "gold": str(gold_dir),
        "pairs": 3,
        "aer": pytest.approx(1 - (3 + 3) / (4 + 4)),
        "precision": 0.75,
        "recall": 0.75,
        "f1": 0.75,
        "links": 4,
    }
    assert "25.00" in done.out and "75.00" in done.out
    assert "1 links name words that their sentence does not have" in done.err


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("0-0:0.91 2-2:1\n0-0 1-1\n\n", ()),
        ("1 1 1\n1 3 3\n2 1 1\n2 2 2\n", ()),
        ("1-1 3-3\n1-1 2-2\n\n", ()),
        ("1-1 3-3\n1-1 2-2\n\n", ("--links-from-one",)),
        ("0-0 2-2\n0-0 1-1\n\n", ("--reverse",)),
    ],
)
def test_links_in_other_forms_score_the_same(use: Use, gold_dir: Path, text: str, options: tuple[str, ...]) -> None:
    (gold_dir / "links").write_text(text)
    done = use("score", gold_dir / "links", "--gold", gold_dir, *options, "--json", gold_dir / "scores.json")
    assert done.code == 0, done.err
    assert json.loads((gold_dir / "scores.json").read_text())[0]["aer"] == pytest.approx(0.25)


def test_reversed_links_are_turned_round(use: Use, gold_dir: Path) -> None:
    for name, text, options in (("forward", "1-0\n\n\n", ()), ("back", "0-1\n\n\n", ("--reverse",))):
        (gold_dir / name).write_text(text)
        use("score", gold_dir / name, "--gold", gold_dir, "--json", gold_dir / f"{name}.json", *options)
    forward, back = (json.loads((gold_dir / f"{name}.json").read_text())[0] for name in ("forward", "back"))
    assert {**forward, "file": ""} == {**back, "file": ""}


def test_a_file_of_gold_links_alone_will_do_and_several_files_are_compared(
    use: Use, gold_dir: Path, tmp_path: Path
) -> None:
    for name, text in (("a", LINKS), ("b", "0-0 1-1 2-2\n0-0\n\n")):
        (tmp_path / name).write_text(text)
    done = use(
        "score", tmp_path / "a", tmp_path / "b", "--gold", gold_dir / "alignv2.txt", "--json", tmp_path / "x.json"
    )
    assert done.code == 0, done.err
    assert [entry["aer"] for entry in json.loads((tmp_path / "x.json").read_text())] == [
        pytest.approx(0.25),
        pytest.approx(1 - (3 + 4) / (4 + 4)),
    ]


def test_a_gold_file_without_links_for_the_last_pairs_takes_their_number_from_the_links(
    use: Use, tmp_path: Path
) -> None:
    (tmp_path / "gold").write_text("1 1 1\n")
    (tmp_path / "links").write_text("0-0\n\n0-0\n")
    use("score", tmp_path / "links", "--gold", tmp_path / "gold", "--json", tmp_path / "x.json")
    (entry,) = json.loads((tmp_path / "x.json").read_text())
    assert (entry["pairs"], entry["precision"]) == (3, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-0\n", "1 lines, but 3 pairs in"),
        ("0-0\nthe house\n\n", ":2: 'the' is not a link"),
        (None, "no such file; give a file of word links"),
    ],
)
def test_a_mistake_is_one_line(use: Use, gold_dir: Path, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "links").write_text(text)
    done = use("score", tmp_path / "links", "--gold", gold_dir)
    assert done.code == 1
    assert message in done.error
    done = use("score", gold_dir / "test.en", "--gold", gold_dir, "--json", gold_dir / "test.en")
    assert "is an input too and would be overwritten" in done.error


def test_a_folder_is_no_file_of_links(use: Use, gold_dir: Path) -> None:
    assert use("score", gold_dir, "--gold", gold_dir).error.endswith("is a folder; give a file of word links")
