"""The files that a preflight compares are those that every rank reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.preflight.config import files_of
from pipeline.settings.schema import Config, Model
from tests.pipeline.run_kit import CHECKPOINT, make_run


def config_with(**validation: Any) -> Config:
    content = {"data": {"path": "/data"}, "run": {"out": "/run"}, "deepspeed": "/ds.json", "validation": validation}
    return Config.model_validate(content)


def test_gold_pairs_and_sentences_of_validation_are_among_them(gold_dir: Path, tmp_path: Path) -> None:
    for name in ("pud.en", "pud.de"):
        (tmp_path / name).write_text("a\n", encoding="utf-8")
    files = files_of(Path("/c.yaml"), config_with(gold=[gold_dir.parent], retrieval=[tmp_path]))
    gold = [str(gold_dir / name) for name in ("test.en", "test.de", "alignv2.txt")]
    assert files == [
        "/c.yaml",
        "/ds.json",
        "/data/manifest.json",
        *gold,
        str(tmp_path / "pud.en"),
        str(tmp_path / "pud.de"),
    ]
    assert len(files_of(Path("/c.yaml"), config_with(every=0, gold=[gold_dir]))) == 3


def test_gold_pairs_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        files_of(Path("/c.yaml"), config_with(gold=[tmp_path / "en-de"]))


def test_what_says_what_the_first_weights_are_is_among_them(hf_dir: Path, tmp_path: Path) -> None:
    run = make_run(hf_dir, tmp_path)
    (tmp_path / "model.pt").write_bytes(b"x")
    expected = {
        hf_dir: [f"{hf_dir}/config.json"],
        run: [f"{run}/{CHECKPOINT}/manifest.json"],
        run / CHECKPOINT: [f"{run}/{CHECKPOINT}/manifest.json"],
        tmp_path / "model.pt": [],
    }
    for init, files in expected.items():
        config = config_with().model_copy(update={"model": Model(init=init)})
        assert files_of(Path("/c.yaml"), config)[3:] == files
