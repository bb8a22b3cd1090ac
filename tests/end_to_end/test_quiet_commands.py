"""Commands on a run's folder, which bring DeepSpeed with them, print data on standard output and our own lines beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def run(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, sharded by ZeRO."""
    out: Path = tmp_path_factory.mktemp("quiet") / "run"
    done = launcher.one_rank("--config", corpus.config, f"run.out={out}", "run.steps=2")
    assert done.code == 0, done.output
    return out


def pipeline(*words: object) -> tuple[str, list[str]]:
    """Standard output, and the lines of standard error that tell of no progress."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DS_ACCELERATOR", "XLM_ALIGN_VERBOSE")
    }
    command = [sys.executable, "-m", "pipeline", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if not line.startswith("aligning: ")]


def test_align_on_a_run_prints_links_alone(run: Path, corpus: Any, tmp_path: Path) -> None:
    texts = [corpus.config.parent / "sample" / "parallel" / f"train.qaa-qab.{language}" for language in ("qaa", "qab")]
    for path in texts:
        (tmp_path / path.name).write_text("".join(path.open(encoding="utf-8").readlines()[:20]), encoding="utf-8")
    out, told = pipeline("align", run, *(tmp_path / path.name for path in texts))
    assert len(out.splitlines()) == 20 and all(re.fullmatch(r"\d+-\d+", link) for link in out.split())
    assert told and all("pairs aligned: layer" in line or line.startswith(("note: ", "aligning by ")) for line in told)


def test_dry_run_prints_json_alone(corpus: Any) -> None:
    out, told = pipeline("dry-run", corpus.config, "--json", "--gpus", 1)
    assert json.loads(out)["gpus"] == 1 and told == []


def test_export_prints_where_the_model_is_alone(run: Path, tmp_path: Path) -> None:
    out, told = pipeline("export", run, tmp_path / "hf")
    (line,) = out.splitlines()
    assert line.startswith(f"{tmp_path / 'hf'}: step 2, ") and [text.partition(" ")[0] for text in told] == [
        "words",
        "next:",
    ]
