"""The script for the day a GPU is at hand, dry-run in Triton's interpreter."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(KERNELS), **environment}
    return subprocess.run([sys.executable, *command], env=variables, capture_output=True, text=True, check=False)


def read(out: Path) -> dict[str, list[dict]]:
    """The lines of a record by kind."""
    by_kind: dict[str, list[dict]] = {}
    for line in out.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        by_kind.setdefault(entry["kind"], []).append(entry)
    return by_kind


@pytest.fixture
def gpu_checks(monkeypatch):
    monkeypatch.syspath_prepend(str(KERNELS))
    yield importlib.import_module("gpu_checks")
    for name in ("gpu_checks", "gpu_speed", "gpu_batches", "record", "benchmark_peers"):
        sys.modules.pop(name)


def test_gpu_checks_run_dry_to_the_end(tmp_path):
    out = tmp_path / "gpu_checks.jsonl"
    checks = run(str(KERNELS / "gpu_checks.py"), "--dry-run", "--out", str(out), COMMIT="abc1234", PATH="")
    assert checks.returncode == 0, checks.stdout + checks.stderr
    record = read(out)
    (environment,) = record["environment"]
    assert environment["dry_run"] is True and environment["commit"] == "abc1234"
    assert len(record["check"]) == 7
    assert all(check["passed"] for check in record["check"])
    assert [line["what"].split(":")[0] for line in record["left out"]] == [
        "compiling",
        "sync and CUDA graph checks",
        "compute-sanitizer",
    ]
    timed = ["fused, planned", "product + Sinkhorn/filter kernel, planned", "align, triton", "align, torch"]
    assert [figure["contender"] for figure in record["figure"]] == ["copy_", *timed, *timed]
    assert record["figure"][1]["name"].startswith("3 pairs of real lengths")
    assert len(record["tuning"]) == 2 and record["tuning"][0]["is_default"]


def test_a_section_that_fails_leaves_its_record_and_the_others_go_on(gpu_checks, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA error: an illegal memory access\nand more")

    def late(*_):
        report.until = 0

    sections = {"right": fails, "repeatable": late, "speed": fails}
    monkeypatch.setattr(gpu_checks, "SECTIONS", sections)
    report = gpu_checks.Report(gpu_checks.Record(str(tmp_path / "r.jsonl")))
    gpu_checks.run_sections(list(sections), report, gpu_checks.DRY, "cpu")
    record = read(tmp_path / "r.jsonl")
    assert [line["detail"] for line in record["check"]] == ["RuntimeError: CUDA error: an illegal memory access"]
    assert [line["what"] for line in record["left out"]] == ["speed: the time is up"]


def test_an_interpreter_that_does_not_know_numpy_is_one_line(gpu_checks, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_checks.triton, "__version__", "3.6.0")
    monkeypatch.setattr(gpu_checks.numpy, "__version__", "2.5.5")
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py", "--dry-run", "--out", str(tmp_path / "r.jsonl")])
    assert gpu_checks.main() == 2
    assert "Triton 3.6.0 does not know NumPy 2.5.5; take Triton 3.7" in capsys.readouterr().err
    monkeypatch.setattr(gpu_checks.numpy, "__version__", "2.3.5")
    assert not gpu_checks.interpreter_fails()


def test_gpu_checks_without_a_gpu_say_so_in_one_line():
    checks = run(str(KERNELS / "gpu_checks.py"), CUDA_VISIBLE_DEVICES="")
    assert checks.returncode == 2
    assert checks.stderr == "error: gpu_checks needs a CUDA device and finds none; use --dry-run\n"
