"""A run that dies at any of its steps leaves nothing that lies, and its repetition ends as if nothing had happened."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.data_dir.verify import find_problems
from data_prep.files import canonical_json
from data_prep.plan.source_plan import ShardSettings, Source
from data_prep.run.job import JobOutcome, run_job
from data_prep.token_files.manifest import MANIFEST_NAME, Manifest, content_of
from tests.conftest import ROOT

Files = Callable[[Path], dict[str, bytes]]
STALE = ("not what the shards' markers say", "manifest.json: no such file")
OLD = {
    "other settings": ShardSettings(9000),
    "another version of the encoder": ShardSettings(7000, sentencepiece="0.0.1"),
}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die instead of doing the step-th rename or deletion."""
    left = [step]

    def dying(real: Callable) -> Callable:
        def operation(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*arguments, **options)

        return operation

    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))


@pytest.fixture
def add(mono_file: Path, tokenizer_dir: Path, tmp_path: Path) -> Callable[..., JobOutcome]:
    """Add the text to a data folder."""

    def run_once(data_dir: Path, settings: ShardSettings = ShardSettings(7000)) -> JobOutcome:  # noqa: B008
        source = Source("mono", ("de",), (mono_file,), settings)
        return run_job([source], tokenizer_dir, data_dir, workers=1, max_bad_rate=0.0)

    return run_once


def lies(data_dir: Path) -> list[str]:
    """What is wrong with what a reader would accept; a manifest that is missing or behind is not."""
    return [problem for problem in find_problems(data_dir) if not any(part in problem for part in STALE)]


@pytest.mark.parametrize("before", ["nothing", *OLD])
def test_a_run_that_dies_at_any_step_lies_to_nobody_and_can_be_repeated(
    before: str, add: Callable[..., JobOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_under: Files
) -> None:
    straight, old, data_dir = tmp_path / "straight", tmp_path / "old", tmp_path / "data"
    add(straight)
    digests = {Manifest.load(straight).digest()}
    if before in OLD:
        add(old, OLD[before])
        digests.add(Manifest.load(old).digest())
    expected, step, died = files_under(straight), 0, True
    while died:
        shutil.rmtree(data_dir, ignore_errors=True)
        if before in OLD:
            shutil.copytree(old, data_dir)
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            try:
                add(data_dir)
                died = False
            except Killed:
                step += 1
        if before in OLD or (data_dir / MANIFEST_NAME).exists():
            assert Manifest.load(data_dir).digest() in digests, step
        assert not lies(data_dir), step
        add(data_dir)
        assert files_under(data_dir) == expected, step
    assert step > 10


@pytest.mark.parametrize("before", OLD)
def test_old_and_new_shards_of_a_source_are_never_both_listed(
    before: str, add: Callable[..., JobOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, data_dir = tmp_path / "old", tmp_path / "data"
    add(old, OLD[before])
    sequences = sum(shard.sequences for shard in Manifest.load(old).shards)
    step, died, seen = 0, True, set()
    while died:
        shutil.rmtree(data_dir, ignore_errors=True)
        shutil.copytree(old, data_dir)
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            try:
                add(data_dir)
                died = False
            except Killed:
                step += 1
        # what a run on another source would write into the manifest now
        listed = {record["stem"].rpartition("-")[0] for record in content_of(data_dir)["shards"]}
        assert len(listed) <= 1, step
        seen |= listed
    assert len(seen) == 2
    assert sum(shard.sequences for shard in Manifest.load(data_dir).shards) == sequences


def test_settings_that_were_given_up_on_leave_the_first_ones_in_force(
    add: Callable[..., JobOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_under: Files
) -> None:
    data_dir = tmp_path / "data"
    add(data_dir)
    expected = files_under(data_dir)
    with monkeypatch.context() as patch:
        kill_at(12, patch)
        with pytest.raises(Killed):
            add(data_dir, OLD["other settings"])
    assert len(files_under(data_dir)) > len(expected)
    assert canonical_json(content_of(data_dir)) == expected[MANIFEST_NAME]
    add(data_dir)
    assert files_under(data_dir) == expected


@pytest.mark.mpi
def test_runs_killed_at_random_moments_end_whole() -> None:
    script = ROOT / "tests" / "tools" / "kill_data_prep.py"
    done = subprocess.run(
        [sys.executable, str(script), "--rounds", "5", "--modes", "mpi,pool,single,rechunk,tokenizer"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all folders whole" in done.stdout
