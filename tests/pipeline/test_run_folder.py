"""One reader of a run's metrics: lines that a killed run tore are left out, steps that were done again count as last done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.run_folder import METRICS, cost, read_metrics, read_training

LINE = {"seconds_per_step": 6.0, "tflops_per_device": 0.5}


def write(run: Path, lines: list[dict], tail: str = "") -> Path:
    run.mkdir(exist_ok=True)
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")
    return run


def steps(*done: int, **values: float) -> list[dict]:
    return [{"kind": "train", "step": step, **LINE, **values} for step in done]


def test_a_torn_last_line_costs_nothing_but_itself(tmp_path: Path) -> None:
    run = write(tmp_path / "run", steps(10, 20), '{"kind": "train", "step": 30, "seconds_per')
    assert cost(run) == pytest.approx((20 * 6.0 * 0.5, 20 * 6.0))
    found = read_metrics(run)
    assert list(found.train) == [10, 20] and found.damaged_lines == 1


def test_the_cost_of_steps_done_twice_counts_once_and_as_last_done(tmp_path: Path) -> None:
    again = steps(20, 30, seconds_per_step=1.0)  # from the checkpoint of step 10, on a faster machine
    run = write(tmp_path / "run", [*steps(10, 20, 30, 40), *again])
    assert cost(run) == pytest.approx((10 * 6 * 0.5 + 20 * 1 * 0.5, 10 * 6 + 20 * 1))
    assert list(read_metrics(run).train) == [10, 20, 30], "step 40 has to be done again"


def test_every_end_is_kept_in_its_order(tmp_path: Path) -> None:
    ends = [{"kind": "end", "step": 20, "finished": False}, {"kind": "end", "step": 30, "finished": True}]
    run = write(tmp_path / "run", [*steps(10, 20), ends[0], *steps(20, 30), ends[1]])
    assert read_metrics(run).ends == [{"step": 20, "finished": False}, {"step": 30, "finished": True}]


def test_a_run_without_metrics_or_steps_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none/metrics\.jsonl: cannot be read \(No such file"):
        read_metrics(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no training metrics"):
        read_training(write(tmp_path / "run", []))
