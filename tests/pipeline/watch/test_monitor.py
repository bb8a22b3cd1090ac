"""A run's figures are on the screen, in metrics.jsonl, in TensorBoard, and in W&B where it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

import pipeline.watch.monitor
from pipeline.run_folder import read_metrics
from pipeline.settings.schema import Config, load_config
from pipeline.watch.alignment_record import read_alignments
from pipeline.watch.monitor import Monitor, describe
from pipeline.watch.wandb_sink import check_wandb

VALUES = {
    "mlm_loss": 5.25,
    "dwa_links_per_pair": 7.5,
    "dwa_agreement": 0.5,
    "tokens_per_second": 21_000.0,
    "seconds_per_step": 0.5,
    "seconds_label": 0.05,
    "seconds_forward": 0.2,
    "tflops_per_device": 1.25,
    "utilisation": 0.41,
    "peak_memory_gb": 1.5,
    "lr": 1e-4,
    "loss_scale": 128.0,
    "skipped_steps": 3,
    "gradient_norm": 0.75,
}


class FakeRun:
    """Remembers what W&B would have been told."""

    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **keywords: self._calls.append((name, arguments or keywords))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Calls of a stand-in package."""
    calls: list[tuple[str, Any]] = []
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)

    def init(**keywords: Any) -> FakeRun:
        calls.append(("init", keywords))
        if keywords["project"] == "forbidden":
            raise RuntimeError("no API key\nmore")
        return FakeRun(calls)

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def make_config(out: Path, **run: Any) -> Config:
    content = {"data": {"path": "data"}, "run": {"out": out, "steps": 20, **run}, "deepspeed": "none.json"}
    return Config.model_validate(content)


def test_a_plain_line_shows_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(make_config(tmp_path), first_step=0)
    monitor.train(10, VALUES)
    monitor.close()
    shown = capsys.readouterr().out
    expected = "step 10/20|mlm_loss 5.250|21,000 tokens/s|ETA 0:0|1.25 TFLOP/s|utilisation 41.0%|1.50 GB|links 7.50|"
    expected += "agreement 0.500|lr 1.00e-04|norm 0.75|scale 128|skipped 3|label 10%|forward 40%"
    for part in expected.split("|"):
        assert part in shown
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"kind": "train", "step": 10, **VALUES}
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_terminal_shows_a_bar_and_the_same_details(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=200, record=True, file=(tmp_path / "screen").open("w"))
    monkeypatch.setattr(pipeline.watch.monitor, "Console", lambda **_: console)
    monitor = Monitor(make_config(tmp_path), first_step=5)
    monitor.train(10, VALUES)
    monitor.say("validation at step 10")
    monitor.close()
    shown = console.export_text()
    assert "10/20" in shown and "21,000 tokens/s" in shown and describe(VALUES) in shown and "validation at" in shown


def test_a_narrow_terminal_loses_neither_the_bar_nor_the_details(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(force_terminal=True, width=80, soft_wrap=True, record=True, file=(tmp_path / "screen").open("w"))
    monkeypatch.setattr(pipeline.watch.monitor, "Console", lambda **_: console)
    monitor = Monitor(make_config(tmp_path), first_step=5)
    monitor.train(10, VALUES)
    monitor.close()
    lines = console.export_text().splitlines()
    assert any("10/20" in line and "0:00:00" in line and "…" not in line for line in lines)
    assert describe(VALUES).replace(" ", "") in "".join(lines).replace(" ", "")


def test_a_line_that_a_killed_run_left_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "tr', encoding="utf-8")
    monitor = Monitor(make_config(tmp_path), first_step=1)
    monitor.record("train", 2, VALUES)
    monitor.close()
    metrics = read_metrics(tmp_path)
    assert list(metrics.train) == [1, 2] and metrics.damaged_lines == 1


def test_alignments_go_on_after_what_a_killed_run_left(tmp_path: Path) -> None:
    (tmp_path / "alignments.jsonl").write_text('{"step": 1, "la', encoding="utf-8")
    monitor = Monitor(make_config(tmp_path), first_step=1)
    pair = {"folder": "en-de", "line": 1, "source": ["ä"], "target": ["b"], "sure": [(0, 0)], "possible": [(0, 0)]}
    monitor.record_alignments(2, 1, [{**pair, "links": [(0, 0)], "similarities": [[0.5]]}])
    monitor.close()
    views, damaged = read_alignments(tmp_path, {1, 2})
    assert list(views) == [2] and damaged == 1
    assert views[2]["en-de", 1].source == ["ä"] and set(views[2]["en-de", 1].links) == {(0, 0)}


def test_wandb_gets_what_the_file_gets_and_a_resumed_run_goes_on_there(tmp_path: Path, wandb: list[Any]) -> None:
    config = make_config(tmp_path, wandb={"project": "alignment", "tags": ["small"]})
    check_wandb(config)
    for first in (0, 10):
        monitor = Monitor(config, first)
        monitor.train(first + 10, VALUES)
        monitor.record("checkpoint", first + 10, {"path": "x"})
        monitor.close()
    first_start, second_start = (keywords for name, keywords in wandb if name == "init")
    assert first_start == second_start, "the id is the run's own"
    assert (
        first_start["project"] == "alignment" and first_start["tags"] == ["small"] and first_start["resume"] == "allow"
    )
    assert first_start["config"]["run"]["steps"] == 20 and not {"mode", "name", "entity"} & first_start.keys()
    logged = [arguments[0] for name, arguments in wandb if name == "log"]
    assert logged[0] == {"step": 10, **{f"train/{name}": value for name, value in VALUES.items()}}
    assert [name for name, _ in wandb].count("finish") == 2


def test_wandb_is_not_touched_unless_asked_for(tmp_path: Path, wandb: list[Any]) -> None:
    check_wandb(make_config(tmp_path))
    Monitor(make_config(tmp_path), 0).close()
    assert not wandb and not (tmp_path / "wandb_id").exists()


def test_wandb_that_is_missing_or_does_not_start_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    config = make_config(tmp_path, wandb={"project": "forbidden"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"wandb is not installed: `pip install wandb`, or run\.wandb=null"):
        check_wandb(config)
    request.getfixturevalue("wandb")
    with pytest.raises(ValueError, match=r"^run\.wandb: W&B did not start \(no API key\); log in"):
        Monitor(config, 0)


def test_wandb_can_be_set_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("data: {path: data}\nrun: {out: run}\ndeepspeed: x.json\n", encoding="utf-8")
    config = load_config(path, ["run.wandb.project=alignment", "run.wandb.mode=offline"])
    assert config.run.wandb is not None and config.run.wandb.mode == "offline"
    path.write_text(config.dump(), encoding="utf-8")
    assert load_config(path) == config.absolute()
    with pytest.raises(ValueError, match=r"run\.wandb\.project"):
        load_config(path, ["run.wandb={name: x}"])
