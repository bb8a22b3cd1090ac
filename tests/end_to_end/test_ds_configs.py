"""Every DeepSpeed file trains on the CPU, and its ranks hold what the dry run says they will."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

WORKER = Path(__file__).with_name("zero_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def measured(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """What the worker measured, by file."""
    out = tmp_path_factory.mktemp("zero")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*.json")}


@pytest.mark.parametrize("file", [path.stem for path in worker.FILES])
def test_a_file_trains_and_holds_the_memory_that_was_estimated(measured: dict[str, Any], file: str) -> None:
    found = measured[file]
    assert found["finite"]
    assert found["bytes_per_parameter"] == pytest.approx(found["estimated"], rel=0.1)
