"""`python -m pipeline.benchmark`: both contenders train on the same content with equal losses, and the figures are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmark.step import BASELINE, OURS

pytestmark = pytest.mark.launch


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.benchmark", *(str(argument) for argument in arguments)]
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


def test_a_mistake_is_one_line(corpus: Any, tmp_path: Path) -> None:
    done = benchmark("--data", tmp_path / "nothing", "--config", corpus.config, "batch.mone=3")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "did you mean batch.mono?" in done.stderr
