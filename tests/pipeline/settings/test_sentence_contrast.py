"""The settings of sentence contrast: the release's four schedules of momentum, and mistakes in one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.settings.schema import Config, load_config
from pipeline.settings.sentence_contrast import SentenceContrast

CONFIG = {"data": {"path": "data"}, "run": {"out": "run"}, "deepspeed": "zero1_fp32.json", "batch": {"contrast": 8}}


@pytest.mark.parametrize(
    ("momentum", "expected"),
    [
        (0.999, {0: 0.999, 1: 0.999, 1000: 0.999}),
        (1, {0: 1.0, 7: 1.0}),
        ({"kind": "constant", "value": 0.9}, {5: 0.9}),
        ({"kind": "constant_with_refresh", "value": 0.9, "interval": 4}, {1: 0.9, 3: 0.9, 4: 0.0, 5: 0.9, 8: 0.0}),
        (
            {"kind": "linear", "begin": 10, "end": 20, "min": 0.9, "max": 1.0},
            {0: 0.9, 10: 0.9, 11: 0.91, 15: 0.95, 20: 1.0, 30: 1.0},
        ),
        ({"kind": "linear", "begin": 10, "end": 10, "min": 0.9, "max": 1.0}, {10: 0.9, 11: 1.0}),
        (
            {"kind": "exponential", "alpha": 0.5, "min": 0.2, "max": 0.9},
            {0: 0.2, 1: 0.2, 4: 0.5, 16: 0.75, 100: 0.9, 10_000: 0.9},
        ),
    ],
)
def test_the_schedules_of_momentum(momentum: Any, expected: dict[int, float]) -> None:
    schedule = SentenceContrast(momentum=momentum).momentum
    assert schedule is not None
    assert {step: schedule.at(step) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize("momentum", [0.5, None, {"kind": "linear", "begin": 1, "end": 9, "min": 0.5, "max": 1.0}])
def test_a_dumped_config_is_read_back(momentum: Any, tmp_path: Path) -> None:
    contrast = {"momentum": momentum, "queue": 0, "in_batch": True}
    config = Config.model_validate({**CONFIG, "objectives": {"contrast": contrast}}).absolute()
    (tmp_path / "config.yaml").write_text(config.dump(), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml").objectives == config.objectives


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("queue=100", ["queue = 100", "no multiple of the 8 keys of a step", "choose 96 or 104"]),
        ("queue=4", ["queue = 4", "smaller than the 8 keys of a step (batch.contrast = 8)", "choose 8"]),
        ("{queue: 24, both_directions: true}", ["the 16 keys of a step (batch.contrast = 8, both directions)"]),
        ("queue=0", ["queue = 0, in_batch = false", "give a queue"]),
        ("momentum=null", ["momentum = null", "need a slow encoder"]),
        ("momentum=fast", ["momentum", "'fast' is neither a number nor a mapping"]),
        ("momentum=1.5", ["momentum.constant.value = 1.5", "less than or equal to 1"]),
        ("momentum={kind: line}", ["momentum", "'constant', 'constant_with_refresh', 'linear', 'exponential'"]),
        ("momentum={kind: linear, begin: 5, end: 4, min: 0.1, max: 0.2}", ["end = 4: before begin = 5"]),
        (
            "temprature=1",
            ["unknown key objectives.contrast.temprature", "did you mean objectives.contrast.temperature"],
        ),
    ],
)
def test_a_mistake_is_one_line(override: str, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(Config.model_validate({**CONFIG, "objectives": {"contrast": {}}}).dump(), encoding="utf-8")
    setting = "objectives.contrast=" if override.startswith("{") else "objectives.contrast."
    with pytest.raises(ValueError, match=r"config\.yaml: ") as error:
        load_config(file, [setting + override])
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{file}: ") and "Value error" not in message
    for part in parts:
        assert part in message
