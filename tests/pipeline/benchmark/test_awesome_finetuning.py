"""What the comparison with awesome-align's fine-tuning asks of a peer, and what it makes of the answers; the peer is a stub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.benchmark.align import our_run, write_bert
from pipeline.benchmark.awesome_finetuning import benchmark
from pipeline.evaluate.gold import read_gold, score_links
from pipeline.weights.loading import load_model

STUB = """#!/usr/bin/env python3
import shutil
import sys
from pathlib import Path
words = sys.argv[1:]
if words[0] == "-m":
    options = dict(zip(words[2::2], words[3::2]))
    if options["--max_steps"] == "13":
        sys.exit("thirteen is no number of steps")
    if options["--seed"] == "7":
        sys.exit("seven is no seed")
    shutil.copytree(options["--model_name_or_path"], options["--output_dir"])
    (Path(options["--output_dir"]) / "asked").write_text(" ".join(words))
else:
    model, pairs, out = map(Path, words[2:5])
    link = "0-0" if (model / "asked").exists() else "7-7"
    for _ in sys.stdin:
        out.write_text("".join(f"{link}\\n" for _ in pairs.read_text().splitlines()))
        print('{"seconds": 1.0}', flush=True)
"""


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(STUB, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.txt"
    path.write_text("a house ||| ein Haus\n", encoding="utf-8")
    return path


def test_the_start_and_what_was_tuned_are_scored_apart(
    hf_dir: Path, gold_dir: Path, peers: Path, pairs: Path, tmp_path: Path
) -> None:
    benchmark(hf_dir, pairs, [gold_dir], peers, layer=1, steps=2, json_file=tmp_path / "out.json")
    entries = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [each["which"] for each in entries] == ["before", "before, our argmax", "so", "so, our argmax"]
    before, ours, after, ours_after = entries
    assert before["seconds"] == 0 < after["seconds"]
    assert ours["aer"] == ours_after["aer"], "the stub has learned nothing"
    gold = read_gold(gold_dir)
    write_bert(hf_dir, load_model(hf_dir)[1], tmp_path / "bert")
    links = our_run(tmp_path / "bert", 1, gold, {"method": "argmax", "encoding": "separate"})()[1]
    assert ours["aer"]["en-de"] == pytest.approx(100 * score_links(links, gold).aer)
    assert after["aer"]["en-de"] < before["aer"]["en-de"] == 100


def test_a_peer_that_fails_and_pairs_that_are_none_are_told(
    hf_dir: Path, gold_dir: Path, peers: Path, pairs: Path
) -> None:
    with pytest.raises(ValueError, match="awesome-align failed:\nthirteen is no number of steps"):
        benchmark(hf_dir, pairs, [gold_dir], peers, layer=1, steps=13)
    with pytest.raises(ValueError, match="awesome-align failed:\nseven is no seed"):
        benchmark(hf_dir, pairs, [gold_dir], peers, layer=1, steps=2, seed=7)
    pairs.write_text("a house\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"pairs\.txt: has no `source \|\|\| target` line"):
        benchmark(hf_dir, pairs, [gold_dir], peers)
