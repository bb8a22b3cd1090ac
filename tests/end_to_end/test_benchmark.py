"""`python -m pipeline.benchmark` and `.translation`: contenders do the same work, with equal losses; figures are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmark import translation
from pipeline.benchmark.step import BASELINE, OURS

pytestmark = pytest.mark.launch


def benchmark(*arguments: object, module: str = "pipeline.benchmark") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *(str(argument) for argument in arguments)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_contenders_do_the_same_work_and_are_compared(corpus: Any, tmp_path: Path) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "figures.png"
    options = ["--steps", 4, "--ablation-steps", 0, "--json", figures, "--picture", picture]
    done = benchmark("--data", corpus.data, "--config", corpus.config, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {(entry["name"], entry["contender"]): entry for entry in json.loads(figures.read_text(encoding="utf-8"))}
    assert 0 <= entries["loss difference", OURS]["value"] < 1e-3
    speed, other = (entries["curves: tokens_per_second", contender] for contender in (OURS, BASELINE))
    assert speed["ratio_to"][BASELINE] == pytest.approx(speed["value"] / other["value"], abs=1e-3)
    assert 0 < entries["curves: label_share", OURS]["value"] < 1
    assert picture.stat().st_size > 1000 and OURS in done.stdout


def test_translation_is_compared_with_encoder_decoder_model(corpus: Any, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["model.layers=2", "model.hidden=32", "model.heads=2", "model.feed_forward=64", "model.decoder.layers=1"]
    options = [
        "--steps",
        4,
        "--rounds",
        1,
        "--ranks",
        1,
        "--json",
        figures,
        "objectives.mt.label_smoothing=0.1",
        *sizes,
    ]
    done = benchmark("--data", corpus.data, *options, module=translation.__name__)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {(entry["name"], entry["contender"]): entry for entry in json.loads(figures.read_text(encoding="utf-8"))}
    assert 0 <= entries["loss difference", translation.OURS]["value"] < translation.LARGEST_LOSS_DIFFERENCE
    speed, other = (entries["translation: tokens_per_second", name] for name in (translation.OURS, translation.PEER))
    assert speed["ratio_to"][translation.PEER] == pytest.approx(speed["value"] / other["value"], abs=1e-3)
    assert translation.PEER in done.stdout


def test_a_mistake_is_one_line(corpus: Any, tmp_path: Path) -> None:
    done = benchmark("--data", tmp_path / "nothing", "--config", corpus.config, "batch.mone=3")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "did you mean batch.mono?" in done.stderr
