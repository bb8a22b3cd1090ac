"""A learning rate, betas, ε, weight decay or clipping that is changed on resuming is what the next update is made with."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

WORKER = Path(__file__).with_name("settings_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def runs(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    out = tmp_path_factory.mktemp("settings")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return out


def arrays(state: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(state["weight"]), np.array(state["exp_avg"]), np.array(state["exp_avg_sq"])


@pytest.mark.parametrize("case", worker.CASES)
def test_the_first_update_is_the_new_settings_adamw(runs: Path, case: str) -> None:
    found = json.loads((runs / f"{case}.json").read_text(encoding="utf-8"))
    settings = dict(worker.AFTER)
    lr, clip = settings.pop("lr") * (worker.SAVED + 1) / worker.WARMUP, settings.pop("clip")
    assert found["groups"] == [{"lr": pytest.approx(lr), **settings}]
    assert found["clip"] in (clip, None), (
        "None: without ZeRO, in fp32, the engine clips, by the config it was made with"
    )

    (beta1, beta2), eps, decay, step = settings["betas"], settings["eps"], settings["weight_decay"], worker.SAVED + 1
    assert len(found["before"]) == len(found["after"]) > 0
    for before, after in zip(found["before"], found["after"], strict=True):
        weight, mean, square = arrays(before)
        weight_after, mean_after, square_after = arrays(after)
        assert after["step"] == step == before["step"] + 1
        gradient = (mean_after - beta1 * mean) / (1 - beta1)
        np.testing.assert_allclose(square_after, beta2 * square + (1 - beta2) * gradient**2, rtol=1e-2, atol=1e-10)
        direction = mean_after / (1 - beta1**step) / (np.sqrt(square_after / (1 - beta2**step)) + eps)
        expected = -lr * (decay * weight + direction)
        np.testing.assert_allclose(weight_after - weight, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("objectives.dwa=null", ("objectives.dwa: switched off", "weight", "model.init")),
        ("optimizer.adam=deepspeed", ("optimizer.adam = deepspeed", "needs a GPU")),
        ("run.seed=2", ("run.seed = 2", "trained with 1")),
        ("run.steps=1", ("run.steps = 1", "has done 2 already")),
        ("model.layers=3", ("model: ", "layers 2, here 3")),
    ],
)
def test_what_may_not_change_is_refused_in_one_line(runs: Path, override: str, parts: tuple[str, ...]) -> None:
    message = (runs / f"{override}.error").read_text(encoding="utf-8")
    assert "\n" not in message
    for part in parts:
        assert part in message
