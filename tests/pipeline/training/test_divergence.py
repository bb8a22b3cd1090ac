"""How steps that are not finite are counted and told; that none is applied or saved is in end_to_end/test_divergence.py."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.batch import MicroBatch
from pipeline.training import ranks
from pipeline.training.divergence import NonFiniteSteps, poison

OBJECTIVES: Any = [SimpleNamespace(name="mlm", streams=["mono"]), SimpleNamespace(name="tlm", streams=["pairs"])]
NAN, INFINITE, FINE = torch.tensor(float("nan")), torch.tensor(float("inf")), torch.tensor(3.5)


def micro_batch(mono: range, pairs: range) -> MicroBatch:
    streams: Any = {
        name: SimpleNamespace(sample_S=np.array(given)) for name, given in (("mono", mono), ("pairs", pairs))
    }
    return MicroBatch(streams)


class Steps:
    """A run of one rank, as far as `NonFiniteSteps` sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, precision: str = "fp32", most: int = 2) -> None:
        monkeypatch.setattr(ranks, "gather", list)
        self.optimizer = SimpleNamespace(overflow=False)
        engine = SimpleNamespace(optimizer=self.optimizer, fp16_enabled=lambda: precision == "fp16")
        self.counter = NonFiniteSteps(engine, OBJECTIVES, most)

    def make(self, step: int, skipped: bool, *losses: tuple[torch.Tensor, torch.Tensor]) -> None:
        """A step with so many micro-steps, given their losses of mlm and tlm, of 4 blocks and 8 pairs each."""
        self.optimizer.overflow = skipped
        batches = [
            micro_batch(range(4 * place, 4 * place + 4), range(8 * place, 8 * place + 8))
            for place in range(len(losses))
        ]
        self.counter.check(step, batches, [{"mlm": mlm, "tlm": tlm} for mlm, tlm in losses])


@pytest.mark.parametrize("loss", [NAN, INFINITE, -INFINITE])
def test_a_loss_that_is_not_finite_poisons_its_gradient(loss: torch.Tensor) -> None:
    assert torch.isnan(poison(loss))


@pytest.mark.parametrize("loss", [0.0, -1.5, 3.4e38, 1e-45])
def test_a_finite_loss_is_left_as_it_is(loss: float) -> None:
    assert poison(torch.tensor(loss)) == 1


def test_only_steps_in_a_row_count(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch)
    for step in range(10):
        steps.make(step, step % 2 == 0, (NAN, FINE))
    steps.make(10, True, (NAN, FINE))
    with pytest.raises(ValueError, match="step 11: not finite 2 steps in a row"):
        steps.make(11, True, (NAN, FINE))


def test_every_objective_is_named_with_its_own_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, most=1)
    with pytest.raises(ValueError, match=r"the loss of mlm on mono 0-3; the loss of tlm on pairs 0-15, 24-31; look"):
        steps.make(1, True, (NAN, INFINITE), (FINE, NAN), (FINE, FINE), (FINE, NAN))


def test_many_ranges_of_samples_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [(FINE, NAN if micro_step % 2 == 0 else FINE) for micro_step in range(12)]
    with pytest.raises(ValueError, match=r"tlm on pairs 0-7, 16-23, 32-39, 48-55 and 2 more ranges; look"):
        Steps(monkeypatch, most=1).make(1, True, *losses)


def test_gradients_alone_are_told_with_all_samples_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"the gradient, though no loss, on mono 0-7 and pairs 0-15; look"):
        Steps(monkeypatch, most=1).make(1, True, (FINE, FINE), (FINE, FINE))


def test_gradients_alone_do_not_count_in_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(monkeypatch, "fp16")
    for step in range(10):
        steps.make(step, True, (FINE, FINE))
    steps.make(10, True, (NAN, FINE))
    with pytest.raises(ValueError, match="step 11: "):
        steps.make(11, True, (NAN, FINE))
