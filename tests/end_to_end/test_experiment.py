"""`python -m pipeline.experiments` from training to table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.experiments.plan import read_experiment, trials
from pipeline.experiments.training import has_finished


@pytest.mark.launch
def test_from_an_experiment_to_its_table(corpus: Any, tmp_path: Path) -> None:
    """Two arms are trained beside each other, measured and compared; the same command again trains nothing."""
    sample = corpus.data.parent / "sample"
    content = {
        "config": str(corpus.config),
        "settings": {"run.steps": 4},
        "arms": {"tlm": {"objectives.dwa": None}, "all": {}},
        "baseline": "tlm",
        "gold": [str(sample / "gold" / "qaa-qab")],
        "finetuned": {
            "class": {
                "task": "tag",
                "train": [f"qaa={sample}/tasks/class/dev-qaa.tsv"],
                "test": [f"{code}={sample}/tasks/class/test-{code}.tsv" for code in ("qaa", "qab")],
                "settings": {"epochs": 0.2, "max_length": 40},
                "shown": ["accuracy"],
            }
        },
        "measured": 2,
    }
    path, out = tmp_path / "experiment.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.experiments", path, "--out", out, "--seed", 1, "--jobs", 2]
    for trained in (2, 0):
        done = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("trained: ") == trained
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        assert [(run["arm"], run["seed"], list(run["measured"])) for run in results["runs"]] == [
            ("tlm", 1, ["2", "4"]),
            ("all", 1, ["2", "4"]),
        ]
        assert "class, fine-tuned, in %" in done.stdout and "accuracy, qab" in done.stdout
    for run in results["runs"]:
        scores = run["measured"]["4"]["finetuned"]["class"]
        assert scores["mean"]["accuracy"] == scores["qab"]["accuracy"] > 0, "qaa was trained on"
        assert "finetuned" not in run["measured"]["2"]
    plan = read_experiment(path)
    assert all(has_finished(plan, trial) for trial in trials(plan, out, [1]))
    assert not has_finished(plan, trials(plan, out, [2])[0])
    difference = results["arms"]["all"]["aer"] - results["arms"]["tlm"]["aer"]
    assert results["arms"]["all"]["less_baseline"] == pytest.approx(difference)
    assert (out / "curves.png").is_file()
