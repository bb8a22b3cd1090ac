"""The quickstart does not show a training that was stopped as one that has made its steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import quickstart


@pytest.mark.parametrize("reached", [3, 5])
def test_a_training_that_was_stopped_ends_the_quickstart(
    reached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()

    def run(what: str, command: list[str]) -> None:
        end = {"kind": "end", "step": reached, "finished": reached == 5}
        (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(end) + "\n")

    monkeypatch.setattr(quickstart, "run_stage", run)
    if reached == 5:
        quickstart.train(tmp_path, seed=1, steps=5, gold_folders=[])
        return
    with pytest.raises(ValueError, match=r"stopped before its last step; delete .* to start over"):
        quickstart.train(tmp_path, seed=1, steps=5, gold_folders=[])
