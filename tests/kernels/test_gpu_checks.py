"""The script for the day a GPU is at hand, dry-run in Triton's interpreter."""

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


def test_gpu_checks_run_dry_to_the_end(tmp_path):
    out = tmp_path / "gpu_checks.json"
    checks = run(str(KERNELS / "gpu_checks.py"), "--dry-run", "--out", str(out))
    assert checks.returncode == 0, checks.stdout + checks.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["environment"]["dry_run"] is True
    assert len(report["checks"]) == 11
    assert all(check["passed"] for check in report["checks"])
    assert [line.split(":")[0] for line in report["left_out"]] == ["sync and CUDA graph checks", "compute-sanitizer"]
    timed = [figure["contender"] for figure in report["benchmark"]]
    assert timed == [
        "copy_",
        "fused, planned",
        "product + Sinkhorn/filter kernel, planned",
        "align, triton",
        "align, torch",
    ]
    assert len(report["tuning"]) == 1


def test_gpu_checks_without_a_gpu_say_so_in_one_line():
    checks = run(str(KERNELS / "gpu_checks.py"), CUDA_VISIBLE_DEVICES="")
    assert checks.returncode == 2
    assert checks.stderr == "error: gpu_checks needs a CUDA device and finds none; use --dry-run\n"
