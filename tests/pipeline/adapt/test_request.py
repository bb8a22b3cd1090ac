"""What adapt is asked for: told by names where they tell, refused in one line where not, and kept with what it began."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.shard import Shard
from pipeline.adapt.adapt import RECIPE, labels_of, overrides
from pipeline.adapt.request import NAME, Request, pair_of
from pipeline.settings.schema import load_config

MODEL = Path("lab/model")
COUNTS, HASHES = {"documents": 1, "sequences": 2, "tokens": 2, "max_length": 1}, ("0" * 64, "0" * 64)


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["text.en", "text.de"], "en-de"),
        (["a/corpus.en.gz", "b/corpus.zh_Hans.xz"], "en-zh_Hans"),
        (["train.pt-BR", "train.eng"], "pt_BR-eng"),
    ],
)
def test_names_tell_the_languages(names: list[str], pair: str) -> None:
    assert pair_of([Path(name) for name in names]) == pair


@pytest.mark.parametrize("names", [["text.txt1", "text.de"], ["a.en", "b.en"], ["pairs.tsv"], ["source", "target"]])
def test_names_that_do_not_tell_ask_for_the_pair(names: list[str]) -> None:
    with pytest.raises(ValueError, match="the names do not tell two languages; give --pair"):
        pair_of([Path(name) for name in names])
    assert Request.of(MODEL, [Path(name) for name in names], "en-de", None, 1, 1).pair == "en-de"


def test_texts_and_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="give SOURCE and TARGET, one file of pairs"):
        Request.of(MODEL, [], None, None, 1, 1)
    with pytest.raises(ValueError, match="leave SOURCE, TARGET and --pair out"):
        Request.of(MODEL, [Path("a.en")], None, Path("mix.yaml"), 1, 1)
    assert Request.of(MODEL, [], None, Path("mix.yaml"), 1, 1).texts == (str(Path("mix.yaml").absolute()),)


def test_links_go_with_two_texts_and_are_part_of_what_a_folder_was_begun_with(tmp_path: Path) -> None:
    texts, links = [Path("a.en"), Path("a.de")], Path("a.pharaoh")
    request = Request.of(MODEL, texts, None, None, 1, 1, links)
    assert request.links == str(links.absolute()) and Request.of(MODEL, texts, None, None, 1, 1).links is None
    for wrong, mix in (([Path("a.tsv")], None), ([], Path("mix.yaml"))):
        with pytest.raises(
            ValueError, match=r"--links a\.pharaoh: goes with SOURCE and TARGET; a mix names link_files"
        ):
            Request.of(MODEL, wrong, None, mix, 1, 1, links)
    request.keep(tmp_path / "out")
    with pytest.raises(ValueError, match=r"was begun with links .*a\.pharaoh, not None; give another --out"):
        dataclasses.replace(request, links=None).keep(tmp_path / "out")
    # a folder of a version that knew no links
    content = json.loads((tmp_path / "out" / NAME).read_text())
    del content["links"]
    (tmp_path / "out" / NAME).write_text(json.dumps(content))
    dataclasses.replace(request, links=None).keep(tmp_path / "out")


@pytest.mark.parametrize(
    ("has_links", "labels"), [([[False], [False]], "self"), ([[True, True], [True]], "links"), ([[True, False]], "")]
)
def test_given_links_are_the_labels_where_all_pairs_have_some(has_links: list[list[bool]], labels: str) -> None:
    pairs = {
        f"en-x{number}": [
            Shard(Path("d"), "s", "pair", ("en", "x"), COUNTS, (1, 1), HASHES, (1, HASHES[0]) if linked else None)
            for linked in of_pair
        ]
        for number, of_pair in enumerate(has_links)
    }
    manifest = Manifest(Path("d"), "0" * 64, 9, {}, pairs, [], "1" * 64)
    if labels:
        assert labels_of(manifest) == labels
        return
    with pytest.raises(ValueError, match="d: some pairs have word links and others, of en-x0, have none"):
        labels_of(manifest)


def test_the_same_request_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    request = Request.of(MODEL, [Path("a.en"), Path("a.de")], None, None, 100, 1)
    out = tmp_path / "out"
    request.keep(out)
    request.keep(out)
    other = dataclasses.replace(request, steps=50)
    with pytest.raises(ValueError, match=r"out: was begun with steps 100, not 50; give another --out"):
        other.keep(out)
    with pytest.raises(ValueError, match=r"was begun with texts .*a\.en, .*a\.de, not b\.en"):
        dataclasses.replace(request, texts=("b.en",)).keep(out)
    (out / NAME).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"adapt\.json: cannot be read"):
        request.keep(out)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty, and was not begun by adapt"):
        Request.of(MODEL, [Path("a.en"), Path("a.de")], None, None, 1, 1).keep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("labels", "aligns_at", "chosen"), [("self", 7, (8, 7)), ("self", 12, (12, 12)), ("links", 7, (8, None))]
)
def test_labels_come_from_where_words_align_and_the_layer_above_learns(
    labels: str, aligns_at: int, chosen: tuple[int, int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "load", lambda _: None)
    monkeypatch.setattr("pipeline.adapt.adapt.labels_of", lambda _: labels)
    request = Request.of(MODEL, [Path("text.en"), Path("text.de")], None, None, steps=5, seed=1)
    term = load_config(RECIPE, overrides(request, tmp_path, aligns_at, 12)).objectives.token_contrast
    assert term is not None and (term.layer, term.label_layer) == chosen
    assert (term.labels, term.mask_rate) == (labels, 0.3)


def test_a_start_that_was_killed_at_once_blocks_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{NAME}.999999999.tmp").write_text("{", encoding="utf-8")
    request = Request.of(MODEL, [Path("text.en"), Path("text.de")], None, None, 5, 1)
    request.keep(out)
    assert [path.name for path in out.iterdir()] == [NAME]
    assert json.loads((out / NAME).read_text(encoding="utf-8"))["steps"] == 5
