"""Aligners are compared on whole gold folders, each on the same sentences, and memory over a stream of known length."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.benchmark import align_memory, align_quality
from pipeline.benchmark.align_quality import EFLOMAL, EFLOMAL_MORE, add_theirs, more_lines, score_ours, table
from pipeline.evaluate.alignment_error import evaluate
from pipeline.evaluate.gold import read_gold
from pipeline.settings.align_options import Way
from pipeline.weights.loading import load_model

# Stands in for align_peers: links the first words of every pair, and complains where there is an empty line.
PEER = """#!{python}
import json, sys
peer, model, pairs, out, *options = sys.argv[2:]
lines = open(pairs, encoding="utf-8").read().splitlines()
assert all(" ||| " in line for line in lines)
link = "2-2" if "i" in options else "0-0" if len(lines) < 10 else "1-1"
for _ in sys.stdin:
    open(out, "w").write(f"{{link}}\\n" * len(lines))
    print(json.dumps({{"seconds": 1.0}}), flush=True)
"""


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    path = tmp_path / "peers"
    path.write_text(PEER.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_ours_is_scored_at_the_layer_and_at_each_folders_best(hf_dir: Path, gold_dir: Path) -> None:
    gold = read_gold(gold_dir)
    scores, best = score_ours(hf_dir, {"en-de": gold}, 2)
    expected = evaluate(*load_model(hf_dir), gold)
    separate = evaluate(*load_model(hf_dir), gold, Way("argmax", "separate"))
    assert scores["en-de"] == {
        "ours, layer 2": expected.layers[2],
        "ours, best layer": expected.layers[expected.best_layer],
        "ours, argmax, separate, layer 2": separate.layers[2],
    }
    assert best == {"en-de": expected.best_layer}
    with pytest.raises(ValueError, match="the model has 3 layers"):
        score_ours(hf_dir, {"en-de": gold}, 4)


def test_every_folder_gets_its_own_links_and_more_text_only_where_there_is_some(
    hf_dir: Path, gold_dir: Path, tmp_path: Path, peers: Path
) -> None:
    other = tmp_path / "en-fr"
    shutil.copytree(gold_dir, other)
    (other / "test.de").rename(other / "test.fr")
    for language in ("en", "de"):
        (tmp_path / f"more.{language}").write_text("It's here.\n\n" * 4 + "a\n" * 4, encoding="utf-8")
    golds = {"en-de": read_gold(gold_dir), "en-fr": read_gold(other)}
    scores = {name: {} for name in golds}
    assert more_lines([tmp_path / "more.de"], golds["en-de"])[0] == "It's here . ||| It's here .\n"
    more = add_theirs(scores, hf_dir, golds, 2, peers, [tmp_path / "more.de"])
    assert more == {"en-de": 8}, "lines without words are left out"
    # "0-0" is gold in two of the three pairs, "2-2" in one.
    for name in golds:
        assert scores[name]["SimAlign, inter"].precision == scores[name][EFLOMAL].precision == pytest.approx(2 / 3)
        assert scores[name]["SimAlign, itermax"].precision == pytest.approx(1 / 3)
    assert scores["en-de"][EFLOMAL_MORE].recall == 0, "1-1 is a possible link only"
    assert EFLOMAL_MORE not in scores["en-fr"]
    drawn = table(scores, golds)
    assert [str(column.header) for column in drawn.columns][-1] == EFLOMAL_MORE
    assert list(drawn.columns[-1].cells)[1:] == ["", ""], "no mean over some folders"


def test_the_command_writes_figures_of_every_folder(hf_dir: Path, gold_dir: Path, tmp_path: Path) -> None:
    align_quality.benchmark(hf_dir, [gold_dir.parent], layer=1, json_file=tmp_path / "figures.json")
    first, second, _ = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert (first["folder"], first["pairs"], first["contender"]) == ("en-de", 3, "ours, layer 1")
    assert second["contender"] == "ours, best layer" and 0 <= second["layer"] <= 3 and second["aer"] <= first["aer"]


def test_memory_is_measured_every_so_many_pairs_of_a_stream_that_goes_round(
    hf_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("the fox\nmy box\n\n", encoding="utf-8")
    out = tmp_path / "memory.json"
    align_memory.benchmark(hf_dir, tmp_path / "a", tmp_path / "b", pairs=25, every=10, json_file=out)
    entries = json.loads(out.read_text(encoding="utf-8"))
    assert [entry["pairs"] for entry in entries] == [10, 20] and all(entry["value"] > 10 for entry in entries)
    assert "20 pairs: " in capsys.readouterr().out
    (tmp_path / "b").write_text("one\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"3 lines, .* has 1"):
        align_memory.benchmark(hf_dir, tmp_path / "a", tmp_path / "b")
