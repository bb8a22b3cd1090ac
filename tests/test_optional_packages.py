"""Documented scripts whose package is missing say which, and how to get it, in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "kernels/gpu_checks.py": "triton",
    "kernels/compile_gate.py": "triton",
    "tests/tools/interpret_triton.py": "triton",
    "tests/tools/kill_training.py": "pytest",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_package_is_one_line(script: str, tmp_path: Path) -> None:
    package = SCRIPTS[script]
    (tmp_path / f"{package}.py").write_text(
        f"raise ModuleNotFoundError('No module named {package}', name='{package}')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "kernels"), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: the package {package} is not installed; ") and "install" in line
