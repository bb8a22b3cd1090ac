"""Steps of fine-tuning: both contenders have the same batches, losses and weights; ratios are of steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.benchmark.finetune_step import OURS, PEER, Step, benchmark, draw_pairs, figures, largest_difference
from pipeline.finetune.start import read_start
from tests.pipeline.finetune.conftest import model_dir

__all__ = ["model_dir"]


def step(seconds: float, loss: float, places: int) -> Step:
    return Step(processor=seconds, clock=2 * seconds, loss=loss, tokens=50, places=places)


def test_ratios_are_of_the_same_step_after_the_warm_up() -> None:
    ours = [step(9.0, 0.5, 60), step(1.0, 0.4, 60), step(2.0, 0.3, 50)]
    peer = [step(9.0, 0.5, 128), step(3.0, 0.4, 128), step(4.0, 0.3003, 128)]
    entries = figures([{OURS: ours, PEER: peer}])
    of = {(entry["name"], entry["contender"]): entry for entry in entries}
    processor = of["finetune step: seconds by the processor", OURS]
    assert processor["ratios"] == [3.0, 2.0] and processor["ratio_to"] == {PEER: 2.5} and processor["value"] == 1.5
    assert of["finetune step: seconds by the clock", PEER]["value"] == 7.0
    assert of["share of places that are no padding", OURS]["value"] == pytest.approx(100 / 110)
    assert largest_difference([{OURS: ours, PEER: peer}]) == pytest.approx(0.001, rel=1e-2)


def test_generated_pairs_are_scrambled_and_the_same_every_time(model_dir: Path) -> None:
    tokenizer = read_start(model_dir).tokenizer
    pairs = draw_pairs(40, tokenizer)
    assert pairs == draw_pairs(40, tokenizer)
    for pair in pairs:
        words = [sorted(side.split()) for side in (pair.first, pair.second)]
        assert (words[0] == words[1]) or pair.label == "0"
    assert 15 < sum(len(pair.first.split()) for pair in pairs) / len(pairs) < 27


def test_the_command_finds_the_same_losses_and_writes_its_figures(
    model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures_file = tmp_path / "figures.json"
    more = {"any_order": False, "freeze_embeddings": False, "max_length": 100}
    benchmark(model_dir, None, batch=4, steps=3, rounds=2, json_file=figures_file, **more)  # type: ignore[arg-type]
    entries = json.loads(figures_file.read_text(encoding="utf-8"))
    assert entries[-1]["name"] == "loss difference" and entries[-1]["value"] < 1e-5
    of = {(entry["name"], entry["contender"]): entry for entry in entries}
    share = "share of places that are no padding"
    assert 1 > of[share, OURS]["value"] > of[share, PEER]["value"] > 0
    assert len(of["finetune step: seconds by the processor", OURS]["ratios"]) == 4
    assert "largest relative difference of the losses" in capsys.readouterr().out
    short = tmp_path / "train-en.tsv"
    short.write_text("a\tb\t1\nb\tc\t0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="2 pairs, 50 batches of 4 need 200; give more"):
        benchmark(model_dir, short, batch=4, steps=3, rounds=1, json_file=None, **more)  # type: ignore[arg-type]
