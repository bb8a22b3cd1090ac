"""`python -m pipeline mine`: from two files to pairs, their scores and XTREME's predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Done

Use = Callable[..., Done]
SENTENCES = ["the fox", "my box", "judge my vow", "the lazy dog", "jugs of black quartz", "five dozen"]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The same sentences as both languages, in another order, with ids that say which belong together."""
    turned = [(at * 5 + 1) % 6 for at in range(6)]
    for language, order in (("de", range(6)), ("en", turned)):
        text = "".join(f"{language}-{at}\t{SENTENCES[at]}\n" for at in order)
        (tmp_path / f"de-en.dev.{language}").write_text(text, encoding="utf-8")
    (tmp_path / "de-en.dev.gold").write_text("".join(f"de-{at}\ten-{at}\n" for at in (0, 2, 4)), encoding="utf-8")
    return [tmp_path / f"de-en.dev.{name}" for name in ("de", "en", "gold")]


def test_pairs_scores_and_predictions(use: Use, hf_dir: Path, files: list[Path], tmp_path: Path) -> None:
    source, target, gold = files
    options = ("--gold", gold, "--predictions", tmp_path / "out", "--json", tmp_path / "s.json", "--layer", 2)
    done = use("mine", hf_dir, source, target, *options)
    assert done.code == 0, done.err
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert all(s.removeprefix("de-") == t.removeprefix("en-") for _, s, t, _, _ in rows)
    assert all(a == b == SENTENCES[int(s[3:])] for _, s, _, a, b in rows)
    margins = [float(row[0]) for row in rows]
    assert margins == sorted(margins, reverse=True)
    score = json.loads((tmp_path / "s.json").read_text())
    assert (score["kind"], score["gold"], score["pairs"]) == ("mining", 3, len(rows))
    assert score["recall"] == score["right"] / 3 and margins[-1] >= score["threshold"]
    predicted = (tmp_path / "out" / "bucc2018" / "test-de.tsv").read_text().splitlines()
    assert predicted == [f"{s}\t{t}" for _, s, t, _, _ in rows]
    assert "layer 2, mean over all tokens" in done.err
    assert f"{score['right']} of 3 gold pairs among {len(rows)}" in done.err and "F1" in done.err


def test_without_gold_all_pairs_are_written_or_those_above_a_threshold(
    use: Use, hf_dir: Path, files: list[Path], tmp_path: Path
) -> None:
    wanted = ("mine", hf_dir, *files[:2], "--protocol", "cls", "--out", tmp_path / "mined.tsv")
    done = use(*wanted)
    assert done.code == 0 and not done.out, done.err
    rows = (tmp_path / "mined.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 6
    middle = rows[2].split("\t")[0]
    assert use(*wanted, "--threshold", float(middle) - 1e-6).code == 0
    kept = (tmp_path / "mined.tsv").read_text(encoding="utf-8").splitlines()
    assert kept == [row for row in rows if float(row.split("\t")[0]) >= float(middle) - 1e-6]
    done = use(*wanted, "--threshold", 99, "--gold", files[2])
    assert done.code == 0 and "F1 0.00 %" in done.out and "threshold 99.0" in done.out


def test_files_without_ids_are_numbered_and_repeated_texts_are_told(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("the fox\nmy box\nthe fox\n")
    (tmp_path / "b").write_text("my box\nthe fox\n")
    done = use("mine", hf_dir, tmp_path / "a", tmp_path / "b", "--layer", 1)
    assert done.code == 0, done.err
    assert [line.split("\t")[1:] for line in done.out.splitlines()] == [["2", "1", "my box", "my box"]]
    assert "has no tabs; the numbers of its lines are the ids" in done.err
    assert "1 texts stand in their file several times and are in no pair" in done.err


MISTAKES = {
    "no file": (["{tmp}/none", "{target}"], "none: no such file"),
    "no layer": (["{source}", "{target}", "--protocol", "infoxlm"], "of 12 layers, this one has 3; give --layer"),
    "scores of nothing": (
        ["{source}", "{target}", "--json", "{tmp}/x"],
        "scores are against gold pairs; give --gold too",
    ),
    "over an input": (["{source}", "{target}", "--out", "{target}"], "is an input too and would be overwritten"),
    "other way round": (["{target}", "{source}", "--gold", "{gold}"], "the pairs may be the other way round"),
    "no language": (["{tmp}/plain", "{target}", "--predictions", "{tmp}/p"], "names none at its end; call it NAME.de"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(use: Use, hf_dir: Path, files: list[Path], tmp_path: Path, mistake: str) -> None:
    words, message = MISTAKES[mistake]
    (tmp_path / "plain").write_text("the fox\n")
    given = dict(zip(("source", "target", "gold"), files, strict=True))
    done = use("mine", hf_dir, *(word.format(tmp=tmp_path, **given) for word in words))
    assert done.code == 1 and message in done.error and not done.out
