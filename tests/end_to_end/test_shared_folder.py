"""What a run does to its folder when it is not alone there, or when the disk is full: one line, and nothing is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.launch
# A checkpoint of the tests' model takes 1.6 MB.
MEGABYTES = 2.5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one checkpoint and not for two."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(MEGABYTES * 1e6)}", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays_good(
    small_disk: Path, corpus: Any, launcher: Any, read_metrics: Any
) -> None:
    run = small_disk / "run"
    words = ["--config", corpus.config, f"run.out={run}", "run.steps=3", "run.save_every=1"]
    done = launcher.one_rank(*words)
    assert done.code == 1 and "Traceback" not in done.output, done.output
    (error,) = done.errors
    second = run / "checkpoints" / "step_00000002"
    assert f"{second}: the disk is full" in error and "bytes lack" in error and "--resume auto" in error
    assert not second.exists() and (run / "checkpoints" / "step_00000001" / "manifest.json").is_file()

    subprocess.run(["mount", "-o", "remount,size=20000000", small_disk], check=True)
    again = launcher.one_rank(*words, "--resume", "auto")
    assert again.code == 0 and "continues from" in again.output, again.output
    assert max(read_metrics(run, "train")) == 3


def test_a_second_training_in_the_same_folder_is_refused_and_the_first_goes_on(
    corpus: Any, launcher: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["--config", corpus.config, f"run.out={run}", "run.steps=1000000", "run.save_every=1000000"]
    first = launcher.start_one_rank(*words)
    first.wait_for(lambda: (run / "metrics.jsonl").is_file() and '"train"' in (run / "metrics.jsonl").read_text())
    second = launcher.one_rank(*words, "--resume", "auto")
    assert second.code == 1 and "Traceback" not in second.output
    (error,) = second.errors
    assert f"run.out = {run}: another training writes there (process {first.process.pid} on " in error
    lines = len((run / "metrics.jsonl").read_text().splitlines())
    first.wait_for(lambda: len((run / "metrics.jsonl").read_text().splitlines()) > lines + 2)
    first.kill()
    third = launcher.one_rank("--config", corpus.config, f"run.out={run}", "run.steps=2", "--resume", "auto")
    assert third.code == 0, third.output
