"""A run's report is one page that needs nothing else, and shows the run as it went on, not as it was killed."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.run_folder import read_metrics, read_training
from pipeline.watch.report import CHARTS, write_report

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
        "mrtd_replaced": 0.75,
        "mt_nll": 2.5,
        "contrast_retrieved": 0.25,
        "contrast_similarity": 12.5,
        "contrast_negatives": 63.0,
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
    """What a validation records of held-out text, a gold folder and sentences."""
    layers = {"aer_by_layer/en-de": [aer, 1 - aer], "retrieval_by_layer/en-de": [0.5, aer]}
    best = {
        "aer_best/en-de": aer,
        "aer_best_layer/en-de": 0,
        "retrieval_best/en-de": 0.5,
        "retrieval_best_layer/en-de": 1,
    }
    shown = {"mlm_loss/en": 3.0, "mlm_loss/de": 3.5, "aer/en-de": aer, "retrieval/en-de": 0.5}
    return {"kind": "validation", "step": step, **shown, **best, **layers}


def test_the_page_shows_everything_and_reads_nothing_else(write: Callable[..., Path]) -> None:
    changed = {name: 2 * value + 1 for name, value in train_line(10).items() if name not in ("kind", "step")}
    last = {name: [*value] if isinstance(value, list) else value for name, value in validation_line(20, 0.2).items()}
    last |= {
        name: last[name] + 0.25 for name in last if name not in ("kind", "step", "aer/en-de") and "layer/" not in name
    }
    last |= {"aer_best_layer/en-de": 1, "retrieval_best_layer/en-de": 0}
    lines = [validation_line(0, 0.8), train_line(10), train_line(20, **changed), last]
    run = write([*lines, {"kind": "end", "step": 20, "finished": True}])
    (run / "config.yaml").write_text("optimizer: {lr: 2e-4}  # <b>\n", encoding="utf-8")
    write_report(run, run / "report.html")
    page = (run / "report.html").read_text(encoding="utf-8")
    for chart in CHARTS:
        assert f"<figcaption>{chart.title}</figcaption>" in page
    assert page.count("<img ") == len(CHARTS)
    assert "<b>" not in page and "optimizer: {lr: 2e-4}" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    assert "<td>20, finished</td>" in page
    assert "<td>last validation: aer/en-de</td><td>0.2</td>" in page


def test_the_head_says_when_what_and_before_and_after(write: Callable[..., Path]) -> None:
    lines = [validation_line(0, 0.8), train_line(10), train_line(20, mlm_loss=2.5), validation_line(20, 0.2)]
    run = write(lines)
    os.utime(run / "metrics.jsonl", (0, datetime.datetime(2026, 1, 31, 12, 30).timestamp()))
    (run / "config.yaml").write_text(
        "data: {path: /corpora/mine}\nmodel: {layers: 3, hidden: 96}\nrun: {out: r}\ndeepspeed: zero1_fp16\n"
    )
    write_report(run, run / "report.html")
    page = (run / "report.html").read_text(encoding="utf-8")
    for cell in ("2026-01-31 12:30", "/corpora/mine", "3 layers × 96, from scratch", "zero1_fp16"):
        assert f"<td>{cell}</td>" in page
    row = "<tr><td>training: mlm loss</td><td>10</td><td>5</td><td>20</td><td>2.5</td></tr>"
    assert row in page
    aer = "<tr><td>validation: alignment error rate en-de</td><td>0</td><td>0.8</td><td>20</td><td>0.2</td></tr>"
    assert aer in page
    assert page.index("<summary>Config") < page.index("<h2>Curves"), "the config is in reach"


@pytest.mark.parametrize(
    ("objectives", "told"),
    [
        (
            "token_contrast: {layer: 7, labels: links}, dwa: null",
            "token_contrast × 1, words aligned at layer 7, given links",
        ),
        ("token_contrast: {layer: 7}, dwa: null", "token_contrast × 1, words aligned at layer 7"),
        ("token_contrast: {labels: links}", "dwa × 1, token_contrast × 1, words aligned at layer 10, given links"),
    ],
)
def test_the_head_says_where_words_align(write: Callable[..., Path], objectives: str, told: str) -> None:
    run = write([train_line(10)])
    (run / "config.yaml").write_text(
        f"data: {{path: d}}\nrun: {{out: r}}\ndeepspeed: zero1_fp16\nobjectives: {{mlm: null, tlm: null, {objectives}}}\n"
    )
    write_report(run, run / "report.html")
    assert f"<td>{told}</td>" in (run / "report.html").read_text(encoding="utf-8")


def test_what_did_not_change_is_a_line_and_no_picture(write: Callable[..., Path]) -> None:
    run = write([train_line(10), train_line(20, mlm_loss=2.5)])
    write_report(run, run / "report.html")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<tr><td>Loss scale</td><td>128</td></tr>" in page and "<figcaption>Loss scale<" not in page
    assert "<figcaption>Training loss<" in page


def test_figures_that_no_chart_knows_are_titled_in_words(write: Callable[..., Path]) -> None:
    run = write([{"kind": "train", "step": step, "dwa_odd_links": float(step)} for step in (1, 2)])
    write_report(run, run / "report.html")
    assert "<figcaption>Dwa odd links</figcaption>" in (run / "report.html").read_text(encoding="utf-8")


def test_steps_and_layers_are_whole_numbers_on_the_axes(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[float] = []

    def look(figure: Any) -> None:
        axis = figure.axes[0]
        ticks.extend(axis.get_xticks())
        if axis.get_ylabel() == "layer":
            ticks.extend(axis.get_yticks())

    monkeypatch.setattr("pipeline.watch.report.plt.close", look)
    run = write(
        [
            train_line(1),
            *(validation_line(step, 0.5 + step / 10) | {"aer_best_layer/en-de": step} for step in (1, 2, 3)),
        ]
    )
    write_report(run, run / "report.html")
    assert ticks and all(float(tick).is_integer() for tick in ticks)


def alignments_line(step: int, *links: list[int]) -> str:
    """What a validation keeps of one pair of two words a side."""
    gold = {"sure": [[0, 0]], "possible": [[0, 0], [1, 1]]}
    pair = {"folder": "en-<de>", "line": 3, "source": ["the", "<b>"], "target": ["das", "Haus"], **gold}
    pair |= {"links": links, "similarities": [[0.5, 0.0], [0.25, math.nan]]}
    return json.dumps({"step": step, "layer": 2, "pairs": [pair]})


def test_alignments_are_shown_as_they_evolved(write: Callable[..., Path]) -> None:
    steps = range(0, 100, 10)
    run = write([line for step in steps for line in (validation_line(step, 0.5), train_line(step + 5))])
    stale = alignments_line(900)  # of a part of the run that was done again from an earlier checkpoint
    lines = [*(alignments_line(step, [0, 1]) for step in steps), "{", alignments_line(90, [0, 0], [1, 1]), stale]
    (run / "alignments.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert write_report(run, run / "report.html").damaged_lines == 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h3>en-&lt;de&gt;, line 3</h3>" in page and "<b>" not in page
    captions = re.findall(r"step ([\d,]+)<br>(\d of \d gold links, \d wrong)", page)
    assert [step for step, _ in captions] == ["0", "20", "40", "50", "70", "90"], "first, last and some between"
    assert {text for _, text in captions[:-1]} == {"0 of 1 gold links, 1 wrong"}
    assert captions[-1][1] == "1 of 1 gold links, 0 wrong", "the last line of a step counts"
    assert page.count('<td class="sure"') == page.count('<td class="possible"') == 6
    assert page.count("<th>the</th>") == 1 and page.count("<th>Haus</th>") == 6
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "<script" not in page


def test_layers_are_drawn_as_means_over_what_was_measured(write: Callable[..., Path]) -> None:
    lines = [{"kind": "validation", "step": step, "aer_by_layer/a": [0.5, step], "aer/a": 1.0} for step in (1, 2)]
    lines[1] |= {"aer_by_layer/b": [0.25, 0.0], "retrieval_by_layer/b": [9.0, 9.0]}
    metrics = read_metrics(write([train_line(1), *lines]))
    curves = metrics.curves_by_layer("validation", lambda key: key.startswith("aer_by_layer/"))
    assert curves == {"layer 0": ([1, 2], [0.5, 0.375]), "layer 1": ([1, 2], [1, 1.0])}
    assert metrics.keys("validation") == ["aer/a"], "lists are no numbers"


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
        read_training(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no training metrics"):
        read_training(write([]))


def test_the_command_says_what_it_wrote(write: Callable[..., Path], tmp_path: Path) -> None:
    run = write([train_line(10)], "{")
    command = [sys.executable, "-m", "pipeline", "report"]
    done = subprocess.run([*command, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{run / 'report.html'}: 1 lines of metrics up to step 10\n"
    assert "1 damaged lines" in done.stderr and (run / "report.html").is_file()
    wrong = subprocess.run([*command, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
