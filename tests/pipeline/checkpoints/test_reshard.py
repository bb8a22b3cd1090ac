"""Which checkpoints can be cut anew for which runs; that the result trains on is in end_to_end/test_reshard.py."""

from pathlib import Path

import pytest

from pipeline.checkpoints.checkpoint import universal_folder
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.checkpoints.reshard import convert, needed


def info(world_size: int, stage: int, precision: str = "fp32") -> CheckpointInfo:
    return CheckpointInfo(4, world_size, stage, precision, "digest", {}, {})


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_like_the_checkpointed_one_needs_no_conversion(stage: int, precision: str) -> None:
    assert not needed(info(2, stage, precision), info(2, stage, precision))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_other_ranks_need_one_where_the_state_is_spread_over_them(stage: int) -> None:
    assert needed(info(2, stage), info(1, stage)) and needed(info(1, stage), info(4, stage))
    assert not needed(info(2, 0), info(1, 0))


@pytest.mark.parametrize(("was", "wants"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_stages_1_and_2_can_be_changed_into_each_other(was: int, wants: int, ranks: int) -> None:
    assert needed(info(2, was), info(ranks, wants))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_precision_can_be_changed_with_zero(stage: int) -> None:
    assert needed(info(2, stage, "fp16"), info(2, stage, "bf16"))


@pytest.mark.parametrize(
    ("was", "wants"),
    [(was, wants) for was in range(4) for wants in range(4) if was != wants and {was, wants} != {1, 2}],
)
def test_other_changes_of_stage_are_refused_with_the_ways_out(was: int, wants: int) -> None:
    with pytest.raises(
        ValueError, match=rf"ZeRO stage {wants}: .* at stage {was}, .*config of stage {was}, .*export"
    ) as caught:
        needed(info(2, was), info(2, wants))
    assert "model.init" in str(caught.value) and "\n" not in str(caught.value)


def test_another_precision_without_zero_is_refused_with_the_ways_out() -> None:
    with pytest.raises(ValueError, match=r"bf16: the checkpoint was written in fp32, .*config in fp32, .*model\.init"):
        needed(info(2, 0), info(2, 0, "bf16"))


def test_a_checkpoint_that_deepspeed_cannot_convert_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    found = tmp_path / "step_00000004"
    found.mkdir()
    with pytest.raises(
        ValueError, match=r"step_00000004: DeepSpeed cannot convert it \(FileNotFoundError: .*model\.init"
    ):
        convert(found, tmp_path / "run", ["word"])
    assert not universal_folder(tmp_path / "run").exists()
