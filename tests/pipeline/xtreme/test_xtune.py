"""Both stages of xTune by the command, on the miniature."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.xtreme import transfer
from tests.pipeline.conftest import Done


def test_every_task_is_trained_twice_and_the_second_time_beside_the_model_of_the_first(
    download: Path, model_dir: Path, tmp_path: Path, use: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[tuple[str, int, dict[str, Any]]] = []

    def fine_tune(task: Any, start: Any, settings: Any, seed: int, train: Any, *more: Any) -> Any:
        how = task.described()["consistency"]
        if "first_stage" in how:
            assert Path(how["first_stage"], "model.safetensors").is_file()
        stages.append((task.kind, len(train.rows), how))
        return usual(task, start, settings, seed, train, *more)

    usual = transfer.fine_tune
    monkeypatch.setattr(transfer, "fine_tune", fine_tune)
    words = tmp_path / "dicts"
    words.mkdir()
    for language in ("ru", "zh"):
        (words / f"en-{language}.txt").write_text("nogifo генасо\n", encoding="utf-8")
    out = tmp_path / "out"
    done = use(
        "xtreme", str(model_dir), "--data", str(download), "--out", str(out), "--tasks", "panx,xquad,pawsx",
        "--dictionaries", str(words), "--stages", "2", "--epochs", "1", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [kind for kind, _, _ in stages] == ["tag", "tag", "qa", "qa", "classify", "classify"]
    for (_, rows, first), (_, more, second) in zip(stages[::2], stages[1::2], strict=True):
        assert more == 2 * rows and "first_stage" not in first and second["weight"] == first["weight"] == 5.0
    told = [how for _, _, how in stages]
    assert told[1]["hard_labels"] and told[5]["model_weight"] == 2.0
    assert "languages" in told[2] and "alpha" in told[3], "questions are switched first, and then sampled"
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert {task["name"] for task in results["tasks"]} == {"panx", "xquad", "pawsx"}
    assert "zero-shot, with both stages of xTune" in (out / "row.md").read_text(encoding="utf-8")
    left = {path.name for path in out.rglob("*") if path.is_dir()}
    assert not left & {"trainer", "first-stage"}


def test_its_own_settings_come_with_its_steps_and_translations_with_other_weights(
    download: Path, model_dir: Path, tmp_path: Path, use: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[tuple[float, dict[str, Any], int | None]] = []

    def fine_tune(
        task: Any, start: Any, settings: Any, seed: int, train: Any, dev: Any, out: Any, most: Any = None
    ) -> Any:
        assert dev is not None
        stages.append((settings.learning_rate, task.described()["consistency"], most))
        return usual(task, start, settings, seed, train, dev, out, 2 if most else most)

    usual = transfer.fine_tune
    monkeypatch.setattr(transfer, "fine_tune", fine_tune)
    dictionaries, translated = tmp_path / "dicts", tmp_path / "translated"
    dictionaries.mkdir()
    (dictionaries / "en-ru.txt").write_text("nogifo генасо\n", encoding="utf-8")
    (translated / "xquad").mkdir(parents=True)
    shutil.copy(download / "squad" / "train-v1.1.json", translated / "xquad" / "train-ru.json")
    done = use(
        "xtreme", str(model_dir), "--data", str(download), "--out", str(tmp_path / "out"), "--tasks", "xquad",
        "--dictionaries", str(dictionaries), "--stages", "2", "--grid", "xtune", "--epochs", "0.5", "--device", "cpu",
        "--translated", str(translated),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [(rate, most) for rate, _, most in stages] == [(3e-5, None), (3e-5, 24_000)]
    assert stages[1][1]["model_weight"] == 0.1, "of translate-train-all"
    row = (tmp_path / "out" / "row.md").read_text(encoding="utf-8")
    assert "settings of xTune's scripts/cross-lingual-transfer" in row
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["tasks"][0]["source"].endswith("cross-lingual-transfer, base")
