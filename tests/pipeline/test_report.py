"""A run's report is one page that needs nothing else, and shows the run as it went on, not as it was killed."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.report import CHARTS, read_metrics, write_report

Lines = list[dict[str, Any]]


def train_line(step: int, **values: float) -> dict[str, Any]:
    """What the training loop records of a step."""
    phases = {f"seconds_{phase}": 0.1 for phase in ("input", "label", "forward", "backward", "step")}
    shown = {
        "mlm_loss": 5.0,
        "mlm_accuracy": 0.1,
        "tlm_loss": 4.0,
        "dwa_loss": 1.0,
        "dwa_agreement": 0.5,
        "dwa_links_per_pair": 7.5,
        "dwa_unalignable_pairs": 0,
        "tokens_per_second": 21_000.0,
        "seconds_per_step": 0.5,
        "tflops_per_device": 0.05,
        "utilisation": 0.4,
        "peak_memory_gb": 1.5,
        "lr": 1e-4,
        "skipped_steps": 0,
        "loss_scale": 128.0,
        "gradient_norm": 0.7,
    }
    return {"kind": "train", "step": step, **shown, **phases, **values}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A run's folder with these lines, and then this text."""

    def write_lines(lines: Lines, tail: str = "") -> Path:
        run = tmp_path / "base"
        run.mkdir(exist_ok=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")
        return run

    return write_lines


def validation_line(step: int, aer: float) -> dict[str, Any]:
    return {"kind": "validation", "step": step, "mlm_loss/en": 3.0, "mlm_loss/de": 3.5, "aer/en-de": aer}


def test_the_page_shows_everything_and_reads_nothing_else(write: Callable[..., Path]) -> None:
    lines = [validation_line(0, 0.8), *(train_line(step) for step in (10, 20)), validation_line(20, 0.2)]
    run = write([*lines, {"kind": "end", "step": 20, "finished": True}])
    (run / "config.yaml").write_text("optimizer: {lr: 2e-4}  # <b>\n", encoding="utf-8")
    write_report(run, run / "report.html")
    page = (run / "report.html").read_text(encoding="utf-8")
    for chart in CHARTS:
        assert f"<figcaption>{chart.title}</figcaption>" in page
    assert page.count("<img ") == len(CHARTS) + 1, "unalignable pairs get a chart of their own"
    assert "<b>" not in page and "optimizer: {lr: 2e-4}" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    assert "<td>20, finished</td>" in page
    assert "<td>last validation: aer/en-de</td><td>0.2</td>" in page


def test_charts_without_figures_are_left_out(write: Callable[..., Path]) -> None:
    run = write([{"kind": "train", "step": 1, "mlm_loss": 1.0}])
    write_report(run, run / "deep" / "report.html")
    assert (run / "deep" / "report.html").read_text(encoding="utf-8").count("<img ") == 1


def test_a_resumed_run_counts_as_it_was_last(write: Callable[..., Path]) -> None:
    first = [train_line(step, mlm_loss=9.0) for step in (10, 20, 30, 40)]
    again = [validation_line(10, 0.5), validation_line(40, 0.9), *(train_line(step, mlm_loss=2.0) for step in (20, 30))]
    metrics = read_metrics(write([*first, *again]))
    assert metrics.curve("train", "mlm_loss") == ([10, 20, 30], [9.0, 2.0, 2.0])
    assert metrics.curve("validation", "aer/en-de") == ([10], [0.5]), "step 40 was never reached again"
    assert metrics.times_gone_back == 1


@pytest.mark.parametrize(
    "tail", ['{"kind": "train", "st', '{"kind": "train"}', "[]", '{"kind": "tr{"kind": "end", "step": 1}']
)
def test_damaged_lines_are_left_out_and_counted(write: Callable[..., Path], tail: str) -> None:
    metrics = read_metrics(write([train_line(1)], tail))
    assert list(metrics.train) == [1] and metrics.damaged_lines == 1


def test_losses_that_are_not_finite_do_not_stop_the_page(write: Callable[..., Path]) -> None:
    lines = [train_line(1), train_line(2, mlm_loss=math.nan, gradient_norm=math.inf), train_line(3, loss_scale=0.0)]
    run = write(lines)
    write_report(run, run / "report.html")


def test_mistakes_are_told_in_one_line(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl: cannot be read .*; give the folder of a run"):
        read_metrics(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds no training metrics \(0 lines\)"):
        read_metrics(write([]))


def test_the_command_says_what_it_wrote(write: Callable[..., Path], tmp_path: Path) -> None:
    run = write([train_line(10)], "{")
    command = [sys.executable, "-m", "pipeline", "report"]
    done = subprocess.run([*command, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{run / 'report.html'}: 1 lines of metrics up to step 10\n"
    assert "1 damaged lines" in done.stderr and (run / "report.html").is_file()
    wrong = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
