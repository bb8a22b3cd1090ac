"""A checkpoint is whole or does not count; a run goes on from the latest whole one, and from nothing else by accident."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoints.checkpoint import (
    MANIFEST,
    clear,
    find,
    folder_of,
    prune,
    read_info,
    remove_universal,
    seal,
    tag_of,
    universal_folder,
)
from tests.pipeline.checkpoints.checkpoint_kit import (
    CONFIG,
    DAMAGES,
    MODEL,
    flip_a_byte,
    make_info,
    optimizer_shard,
    sealed,
    steps_of,
    write_shards,
)


def sealed_again(run: Path, step: int) -> Path:
    """As a run saves: also where this step was saved before."""
    shutil.rmtree(clear(run, step))
    return sealed(run, step)


def test_a_sealed_checkpoint_says_what_it_holds(tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path, 4)
    info = read_info(checkpoint)
    assert (info.step, info.world_size, info.zero_stage, info.data_digest) == (4, 2, 1, "digest")
    assert info.config == CONFIG and info.encoder == {"layers": 2}
    assert sorted(info.files) == sorted([MODEL, optimizer_shard(0), optimizer_shard(1)])
    assert info.files[MODEL]["bytes"] == (checkpoint / MODEL).stat().st_size and len(info.files[MODEL]["sha256"]) == 64
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted([*info.files, MANIFEST])


def test_files_in_folders_below_are_sealed_too(tmp_path: Path) -> None:
    checkpoint = write_shards(tmp_path, 1)
    (checkpoint / "zero").mkdir()
    (checkpoint / "zero" / "part").write_text("x")
    seal(checkpoint, make_info(1))
    assert "zero/part" in read_info(checkpoint).files


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_checkpoint_without_a_rank_s_shard_is_not_sealed(tmp_path: Path, stage: int) -> None:
    checkpoint = write_shards(tmp_path, 1, world_size=1)
    if stage == 3:
        (checkpoint / MODEL).rename(checkpoint / f"zero_pp_rank_0_{MODEL}")
    with pytest.raises(OSError, match=r"zero_pp_rank_1_mp_rank_00_\w+_states\.pt is missing; a rank did not finish"):
        seal(checkpoint, make_info(1, zero_stage=stage))
    assert not (checkpoint / MANIFEST).exists()


def test_a_checkpoint_without_the_model_is_not_sealed(tmp_path: Path) -> None:
    checkpoint = write_shards(tmp_path, 1)
    (checkpoint / MODEL).unlink()
    with pytest.raises(OSError, match=r"step_00000001: mp_rank_00_model_states\.pt is missing"):
        seal(checkpoint, make_info(1))


def test_stage_0_needs_no_optimizer_shards(tmp_path: Path) -> None:
    checkpoint = write_shards(tmp_path, 1, world_size=0)
    seal(checkpoint, make_info(1, zero_stage=0))
    assert read_info(checkpoint).zero_stage == 0


@pytest.mark.parametrize(("size", "message"), [(0, "written empty"), (30, "cut off")])
@pytest.mark.parametrize("shard", [MODEL, optimizer_shard(1)])
def test_a_shard_that_was_not_written_to_its_end_is_not_sealed(
    tmp_path: Path, shard: str, size: int, message: str
) -> None:
    checkpoint = write_shards(tmp_path, 1)
    os.truncate(checkpoint / shard, size)
    with pytest.raises(OSError, match=rf"{shard}: {message}"):
        seal(checkpoint, make_info(1))
    assert not (checkpoint / MANIFEST).exists()


@pytest.mark.parametrize("left", ["", "half of a mani"])
def test_sealing_after_a_crash_during_sealing_gives_a_whole_checkpoint(tmp_path: Path, left: str) -> None:
    checkpoint = write_shards(tmp_path, 1)
    (checkpoint / f"{MANIFEST}.tmp").write_text(left)
    seal(checkpoint, make_info(1))
    assert sorted(read_info(checkpoint).files) == sorted([MODEL, optimizer_shard(0), optimizer_shard(1)])


def test_a_new_run_starts_afresh(tmp_path: Path) -> None:
    assert find(None, tmp_path) == (None, [])
    assert find("auto", tmp_path) == (None, [])


def test_a_run_is_not_overwritten_without_resume(tmp_path: Path) -> None:
    sealed(tmp_path, 4)
    with pytest.raises(ValueError, match=r"holds checkpoints of a run; add --resume auto"):
        find(None, tmp_path)


def test_an_attempt_that_never_finished_a_checkpoint_may_start_afresh(tmp_path: Path) -> None:
    write_shards(tmp_path, 4)
    assert find(None, tmp_path) == (None, [])


def test_auto_takes_the_latest(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        last = sealed(tmp_path, step)
    assert find("auto", tmp_path) == (last, [])


@pytest.mark.parametrize("damage", DAMAGES)
def test_auto_falls_back_to_the_previous_one_with_a_warning(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    previous, latest = sealed(tmp_path, 2), sealed(tmp_path, 4)
    damage(latest)
    found, warnings = find("auto", tmp_path)
    assert found == previous
    assert len(warnings) == 1 and "skipped a checkpoint" in warnings[0] and tag_of(4) in warnings[0]


def test_auto_passes_over_a_checkpoint_that_was_never_sealed(tmp_path: Path) -> None:
    previous = sealed(tmp_path, 2)
    write_shards(tmp_path, 4)
    assert find("auto", tmp_path) == (previous, [])


def test_a_path_may_be_a_checkpoint_or_a_run(tmp_path: Path) -> None:
    first, second = sealed(tmp_path / "old", 2), sealed(tmp_path / "old", 4)
    assert find(str(first), tmp_path / "new") == (first, [])
    assert find(str(tmp_path / "old"), tmp_path / "new") == (second, [])


def test_a_path_to_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    sealed(tmp_path, 2)
    latest = sealed(tmp_path, 4)
    flip_a_byte(latest)
    with pytest.raises(ValueError, match="damaged"):
        find(str(latest), tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "run", "run/checkpoints/step_00000004"])
def test_a_path_with_nothing_to_resume_is_refused(tmp_path: Path, place: str) -> None:
    write_shards(tmp_path / "run", 4)
    with pytest.raises(ValueError, match="nothing to resume there"):
        find(str(tmp_path / place), tmp_path / "new")


def test_a_path_whose_checkpoints_are_all_damaged_is_refused(tmp_path: Path) -> None:
    flip_a_byte(sealed(tmp_path, 4))
    with pytest.raises(ValueError, match="no checkpoint there is whole"):
        find(str(tmp_path), tmp_path / "new")


def test_pruning_keeps_the_latest_and_removes_what_was_never_sealed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        sealed(tmp_path, step)
    write_shards(tmp_path, 5)
    (folder_of(tmp_path) / "notes.txt").write_text("mine")
    prune(tmp_path, keep=2)
    assert steps_of(tmp_path) == ["notes.txt", tag_of(2), tag_of(3)]


def test_pruning_keeps_every_so_many_steps_for_good(tmp_path: Path) -> None:
    for step in range(1, 8):
        sealed(tmp_path, step)
        prune(tmp_path, keep=2, keep_every=3)
    assert steps_of(tmp_path) == [tag_of(3), tag_of(6), tag_of(7)]


def test_pruning_removes_what_was_cut_anew_for_other_ranks(tmp_path: Path) -> None:
    sealed(tmp_path, 3)
    (universal_folder(tmp_path) / tag_of(3) / "zero").mkdir(parents=True)
    prune(tmp_path, keep=2)
    assert steps_of(tmp_path) == [tag_of(3)]
    remove_universal(tmp_path)  # nothing there


def test_a_checkpoint_that_was_half_cut_anew_is_never_resumed(tmp_path: Path) -> None:
    whole = sealed(tmp_path, 3)
    half = universal_folder(tmp_path) / tag_of(4)
    half.mkdir(parents=True)
    (half / MANIFEST).write_text((whole / MANIFEST).read_text())
    assert find("auto", tmp_path) == (whole, [])


@pytest.mark.parametrize("survives", ["nothing", "the shards"])
def test_a_checkpoint_whose_deletion_was_cut_short_does_not_count(
    tmp_path: Path, survives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(tmp_path, 2)
    latest = sealed(tmp_path, 4)

    def killed(path: Path) -> None:
        if survives == "nothing":
            for name in (MODEL, optimizer_shard(0)):
                (path / name).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path, keep=1)
    assert find("auto", tmp_path) == (latest, [])


def test_a_step_that_is_saved_again_starts_with_an_empty_folder(tmp_path: Path) -> None:
    before = sealed(tmp_path, 4)
    assert clear(tmp_path, 4) == before and list(before.iterdir()) == []
    assert clear(tmp_path, 8).is_dir()
    assert find("auto", tmp_path) == (None, [])


def test_pruning_fewer_than_are_kept_removes_nothing(tmp_path: Path) -> None:
    sealed(tmp_path, 1)
    prune(tmp_path, keep=3)
    assert steps_of(tmp_path) == [tag_of(1)]


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("clock", ["goes on", "went back", "stands still"])
def test_the_latest_is_the_last_that_was_saved_whatever_the_clock_says(tmp_path: Path, keep: int, clock: str) -> None:
    change = {"goes on": 3600, "went back": -3600, "stands still": 0}[clock]
    for count, step in enumerate((10, 20, 30, 15, 25)):
        checkpoint = sealed_again(tmp_path, step)
        os.utime(checkpoint / MANIFEST, (2e9 + change * count,) * 2)
        prune(tmp_path, keep)
        assert checkpoint.is_dir(), "what was just sealed is never pruned"
        assert find("auto", tmp_path) == (checkpoint, [])
        copy = tmp_path.with_name(f"{tmp_path.name}-{count}")
        shutil.copytree(tmp_path, copy, copy_function=shutil.copy)
        assert find("auto", copy)[0] == folder_of(copy) / checkpoint.name
        shutil.rmtree(copy)
    assert len(steps_of(tmp_path)) == keep


@pytest.mark.parametrize("name", ["step_00000009.mybackup", "step_9", "step_best", "step_00000009 (copy)"])
def test_a_user_s_own_folders_are_neither_resumed_from_nor_pruned(tmp_path: Path, name: str) -> None:
    latest = sealed(tmp_path, 4)
    mine = folder_of(tmp_path) / name
    shutil.copytree(latest, mine)
    (folder_of(tmp_path) / "step_unfinished").mkdir()
    for step in (5, 6, 7):
        latest = sealed(tmp_path, step)
        prune(tmp_path, keep=1, keep_every=2)
    assert find("auto", tmp_path) == (latest, [])
    assert steps_of(tmp_path) == sorted([tag_of(4), tag_of(6), tag_of(7), name, "step_unfinished"])
    assert find(str(mine), tmp_path / "new")[0] == mine, "where it is asked for"


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("damaged", [True, False])
def test_a_run_that_went_back_keeps_and_resumes_what_it_saved_since(tmp_path: Path, keep: int, damaged: bool) -> None:
    for step in (10, 20, 30):
        checkpoint = sealed(tmp_path, step)
    if damaged:
        flip_a_byte(checkpoint)
    since = sealed(tmp_path, 15)
    prune(tmp_path, keep)
    assert find("auto", tmp_path)[0] == since
