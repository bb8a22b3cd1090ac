"""Sentence contrast trains the same however a step is cut; its queue and slow weights outlive whatever a run goes through."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.checkpoints import checkpoint
from pipeline.training import replicated
from pipeline.weights.consolidate import full_state

WORKER = Path(__file__).with_name("contrast_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))
TOLERANCE = 1e-5

pytestmark = pytest.mark.launch

ReadMetrics = Callable[[Path, str], dict[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def runs(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    out = tmp_path_factory.mktemp("contrast")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return out


def saved(run: Path, step: int) -> Path:
    return checkpoint.folder_of(run) / checkpoint.tag_of(step)


def twins(folder: Path) -> dict[str, Tensor]:
    """Queue and slow weights; none where an arm keeps none."""
    found = torch.load(folder / replicated.NAME, weights_only=True) if (folder / replicated.NAME).exists() else {}
    assert isinstance(found, dict)
    return found


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in full_state(folder, checkpoint.read_info(folder)).items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """To the last byte."""
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and tensor.numpy().tobytes() == other[name].numpy().tobytes()
        for name, tensor in one.items()
    )


@pytest.mark.parametrize(("arm", "stage"), [(arm, stage) for arm, stages in worker.STAGES.items() for stage in stages])
@pytest.mark.parametrize("cut", worker.CUTS)
def test_weights_slow_weights_and_queue_do_not_depend_on_the_cut(
    runs: Path, read_metrics: ReadMetrics, arm: str, stage: int, cut: tuple[int, int]
) -> None:
    whole, found = (runs / worker.name_of(arm, *how) for how in ((0, 1, 1), (stage, *cut)))
    for content in (weights, twins):
        expected, tensors = (content(saved(run, worker.STEPS)) for run in (whole, found))
        assert expected.keys() <= tensors.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(tensors[name], tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    for step, line in read_metrics(found, "train").items():
        for name in ("tlm_loss", "contrast_loss", "contrast_similarity", "contrast_negatives"):
            assert line[name] == pytest.approx(read_metrics(whole, "train")[step][name], rel=10 * TOLERANCE), name


@pytest.mark.parametrize("case", worker.VALIDATED)
def test_validation_has_its_loss_of_each_pair_of_languages(runs: Path, read_metrics: ReadMetrics, case: str) -> None:
    """That it moves nothing shows above: other cuts are trained without."""
    lines = read_metrics(runs / case, "validation")
    assert list(lines) == [0, worker.STEPS]
    first, last = (line["contrast_loss/qaa-qab"] for line in lines.values())
    assert 0 < last < first


@pytest.mark.parametrize("stage", worker.STAGES["slow"])
def test_all_of_it_moves(runs: Path, stage: int) -> None:
    folders = [saved(runs / worker.name_of("slow", stage, 2, 2), step) for step in (worker.SAVED, worker.STEPS)]
    first, last = map(twins, folders)
    assert {name.partition(".")[0] for name in first} == {"slow_encoder", "slow_sentence_projection", "sentence_queue"}
    assert not any(name.startswith("slow_encoder.layers.1.") for name in first), "as far as the layer that is compared"
    assert int(first["sentence_queue.enqueued"]) == 32 + 16 * worker.SAVED, "filled before training"
    for name, tensor in first.items():
        if not name.endswith(("position.weight", "token_type.weight")):
            assert not torch.equal(tensor, last[name]), name
    assert not torch.equal(*(weights(folder)["heads.sentence_projection.weight"] for folder in folders))


@pytest.mark.parametrize("case", worker.CONTINUED)
def test_a_run_goes_on_with_the_bytes_that_were_saved(runs: Path, case: str) -> None:
    (ranks, stage), cut = worker.CONTINUED[case]
    expected = twins(saved(runs / worker.name_of("slow", stage, ranks, 1), worker.SAVED))
    for rank in range(cut.ranks):
        assert equal(torch.load(runs / f"{case}.loaded_{rank}.pt", weights_only=True), expected)


@pytest.mark.parametrize("case", [name for name in worker.CONTINUED if name.startswith("again")])
def test_a_resumed_run_ends_with_the_straight_run_s_bytes(runs: Path, case: str) -> None:
    (ranks, stage), _ = worker.CONTINUED[case]
    folders = [saved(run, worker.STEPS) for run in (runs / worker.name_of("slow", stage, ranks, 1), runs / case)]
    assert equal(*map(twins, folders)) and equal(*map(weights, folders))


@pytest.mark.parametrize("case", worker.CONTINUED)
def test_losses_go_on_as_they_would_have(runs: Path, read_metrics: ReadMetrics, case: str) -> None:
    (ranks, stage), cut = worker.CONTINUED[case]
    straight, found = (
        read_metrics(run, "train") for run in (runs / worker.name_of("slow", stage, ranks, 1), runs / case)
    )
    assert list(found) == [worker.SAVED + 1, worker.STEPS]
    for step, line in found.items():
        tolerance = 10 * TOLERANCE if cut.precision == "fp32" else 0.05
        assert line["contrast_loss"] == pytest.approx(straight[step]["contrast_loss"], rel=tolerance)


def test_in_bf16_slow_weights_move_by_less_than_bf16_can_tell(runs: Path) -> None:
    first, last = (twins(saved(runs / "bf16", step)) for step in (1, worker.HALF_STEPS))
    for name in ("slow_encoder.layers.0.up.weight", "slow_sentence_projection.weight"):
        moved = first[name] != last[name]
        assert first[name].dtype == torch.float32 and moved.float().mean() > 0.5, name
        assert (
            torch.equal(first[name].bfloat16(), last[name].bfloat16()) or (last[name] - first[name]).abs().max() < 1e-4
        )


def test_a_step_that_fp16_skips_moves_nothing(runs: Path, read_metrics: ReadMetrics) -> None:
    assert read_metrics(runs / "fp16", "train")[worker.HALF_STEPS]["skipped_steps"] == worker.HALF_STEPS
    first, last = (twins(saved(runs / "fp16", step)) for step in (1, worker.HALF_STEPS))
    assert equal(first, last) and int(first["sentence_queue.enqueued"]) == 32
