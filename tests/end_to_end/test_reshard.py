"""A run goes on with other ranks, at ZeRO stage 1 instead of 2, in another precision: the losses are the straight run's."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.checkpoints import checkpoint

WORKER = Path(__file__).with_name("reshard_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))
LOSSES = ("mlm_loss", "tlm_loss", "dwa_loss")
TOLERANCE = 1e-5  # relative
PRECISIONS_DIFFER = 1e-3
LABELS_DIFFER = 1e-2
"""Of word alignment after a change to bf16, whose labels are discrete: 0.5 % off with AVX2, less than 0.1 with AVX-512."""

pytestmark = pytest.mark.launch

ReadMetrics = Callable[[Path, str], dict[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    out = tmp_path_factory.mktemp("reshard")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return out


@pytest.mark.parametrize("case", worker.CONTINUED)
def test_a_continued_run_has_the_straight_run_s_losses(runs: Path, read_metrics: ReadMetrics, case: str) -> None:
    was, now = worker.CONTINUED[case]
    straight, found = (read_metrics(runs / name, "train") for name in (str(was), case))
    assert list(found) == list(range(worker.SAVED + 1, worker.STEPS + 1))
    tolerances = dict.fromkeys(LOSSES, TOLERANCE if was.precision == now.precision else PRECISIONS_DIFFER)
    if now.precision == "bf16" != was.precision:
        tolerances["dwa_loss"] = LABELS_DIFFER
    for step, line in found.items():
        expected = straight[step]
        for name, tolerance in tolerances.items():
            assert line[name] == pytest.approx(expected[name], rel=tolerance), name
        assert line["lr"] == expected["lr"]
        if was.precision == now.precision:
            assert (line["loss_scale"], line["skipped_steps"]) == (expected["loss_scale"], expected["skipped_steps"])


def test_a_run_that_changes_to_fp16_scales_its_losses(runs: Path, read_metrics: ReadMetrics) -> None:
    (case,) = (
        name for name, (was, now) in worker.CONTINUED.items() if (was.precision, now.precision) == ("fp32", "fp16")
    )
    scales = [line["loss_scale"] for line in read_metrics(runs / case, "train").values()]
    assert scales[0] == 128 and scales[-1] > 128


@pytest.mark.parametrize("case", worker.CONTINUED)
def test_what_was_converted_is_removed_and_the_next_checkpoint_is_of_the_new_cut(runs: Path, case: str) -> None:
    folder = checkpoint.folder_of(runs / case)
    assert not checkpoint.universal_folder(runs / case).exists()
    info = checkpoint.read_info(folder / checkpoint.tag_of(worker.STEPS))
    now = worker.CONTINUED[case][1]
    assert (info.world_size, info.zero_stage, info.precision) == (now.ranks, now.stage, now.precision)


def test_auto_passes_over_a_damaged_checkpoint_and_resumes_the_one_before_with_other_ranks(
    corpus: Any, launcher: Any, runs: Path, read_metrics: ReadMetrics
) -> None:
    run = runs / str(worker.Cut(2, 2))
    straight = read_metrics(run, "train")
    (shard,) = (checkpoint.folder_of(run) / checkpoint.tag_of(worker.STEPS)).glob("*_rank_1_*optim_states.pt")
    shard.write_bytes(shard.read_bytes()[::-1])
    arguments = (f"run.out={run}", f"run.steps={worker.STEPS}", "batch.micro_steps=2")
    done = launcher.one_rank("--config", corpus.config, "--resume", "auto", *arguments)
    assert done.code == 0, done.output
    assert f"skipped a checkpoint: {shard}: damaged" in done.output
    assert "written by 2 ranks at ZeRO stage 2 in fp32, and was cut anew for 1 at stage 2 in fp32" in done.output
    found = read_metrics(run, "train")
    for step in range(worker.SAVED + 1, worker.STEPS + 1):
        for name in LOSSES:
            assert found[step][name] == pytest.approx(straight[step][name], rel=TOLERANCE)


def test_a_stage_that_deepspeed_cannot_change_to_is_refused_with_the_ways_out(
    corpus: Any, launcher: Any, runs: Path, tmp_path: Path
) -> None:
    found = checkpoint.folder_of(runs / str(worker.Cut(1, 2))) / checkpoint.tag_of(worker.SAVED)
    to_zero3 = f"deepspeed={worker.deepspeed_json(runs, worker.Cut(1, 3))}"
    arguments = (f"run.out={tmp_path / 'run'}", to_zero3, "batch.micro_steps=2")
    done = launcher.one_rank("--config", corpus.config, "--resume", found, *arguments)
    assert done.code == 1 and "Traceback" not in done.output
    (line,) = done.errors
    for part in ("ZeRO stage 3", "written at stage 2", "config of stage 2", "python -m pipeline export", "model.init"):
        assert part in line
