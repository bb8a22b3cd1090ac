"""Dynamic loss scaling on the CPU: the scale falls, steps are skipped, it recovers, resumes, and ends a hopeless run."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.objectives.catalog import figures
from pipeline.watch.report import CHARTS, write_report

WORKER = Path(__file__).with_name("fp16_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))
INITIAL = 2.0**worker.INITIAL_POWER

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def runs(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    out = tmp_path_factory.mktemp("fp16")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return out


@pytest.fixture(params=worker.STAGES, ids=lambda stage: f"zero{stage}")
def metrics(
    request: pytest.FixtureRequest, runs: Path, read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]]
) -> Callable[[str], list[dict[str, Any]]]:
    """The lines of a case's training metrics, one per step."""

    def read(case: str) -> list[dict[str, Any]]:
        by_step = read_metrics(runs / f"{case}_zero{request.param}", "train")
        return [by_step[step] for step in sorted(by_step)]

    return read


def column(lines: list[dict[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines]


def test_the_scale_falls_by_half_at_each_infinity_and_recovers(metrics: Callable[[str], Any]) -> None:
    scales = column(metrics("falls"), "loss_scale")
    halves = [INITIAL, INITIAL, INITIAL / 2, INITIAL / 4, INITIAL / 8]
    assert scales[:5] == halves
    assert min(scales[5:]) == INITIAL / 8 and scales[-1] > INITIAL / 8, "doubled after a window without infinities"


def test_infinities_skip_their_steps_and_no_others(metrics: Callable[[str], Any]) -> None:
    assert column(metrics("falls"), "skipped_steps") == [0, 0, 1, 2, *[3] * 8]
    assert column(metrics("once"), "skipped_steps") == [0, 0, 0, 1, 1, 1]


def test_training_goes_on_after_an_infinity(metrics: Callable[[str], Any]) -> None:
    losses = column(metrics("once"), "mlm_loss")
    assert all(loss < 100 for step, loss in enumerate(losses) if step != 3)
    assert losses[-1] < losses[0]


def test_every_second_of_a_step_is_booked_on_a_phase(metrics: Callable[[str], Any]) -> None:
    for line in metrics("once"):
        phases = [line[f"seconds_{phase}"] for phase in ("input", "label", "forward", "backward", "step")]
        assert sum(phases) == pytest.approx(line["seconds_per_step"]) and min(phases) > 0
        assert line["tflops_per_device"] > 0 and line["peak_memory_gb"] > 0.01


def test_resuming_keeps_the_scale_and_the_count_of_skipped_steps(metrics: Callable[[str], Any]) -> None:
    straight, resumed = metrics("falls"), metrics("resumed")
    for name in ("loss_scale", "skipped_steps"):
        assert column(resumed, name) == column(straight, name)


@pytest.mark.parametrize("stage", worker.STAGES)
def test_a_run_at_the_floor_of_the_scale_stops_with_advice(runs: Path, stage: int) -> None:
    error = (runs / f"floor_zero{stage}.error").read_text(encoding="utf-8")
    assert "smallest loss scale, 64 (2 steps were skipped" in error and "optimizer.lr" in error and "bf16" in error
    assert "\n" not in error


def test_every_figure_is_documented_and_on_the_report_page(runs: Path, tmp_path: Path) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    run = runs / f"once_zero{worker.STAGES[0]}"
    metrics = write_report(run, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for key in metrics.keys("train"):
        anyone = f"{{objective}}_{key.partition('_')[2]}"
        assert f"`{key}`" in documented or f"`{anyone}`" in documented, key
        assert f"<td>last: {key}</td>" in page
    here = {figure.title for end, figure in figures() if any(key.endswith(end) for key in metrics.keys("train"))}
    of_other_objectives = {figure.title for _, figure in figures()} - here
    assert here and of_other_objectives
    elsewhere = {"Utilisation", *of_other_objectives, *(c.title for c in CHARTS if c.kind == "validation")}
    for chart in CHARTS:
        drawn = f"<figcaption>{chart.title}<" in page or f"<td>{chart.title}" in page.partition("Did not change")[2]
        assert drawn == (chart.title not in elsewhere), chart.title
    assert "run:\n  out:" in page and metrics.damaged_lines == 0
