"""The packed step's losses and gradients are those of a padded step through Hugging Face's model, for every objective."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.benchmark import worker as benchmark_worker
from pipeline.benchmark.step import CONFIG, OURS
from pipeline.benchmark.straightforward import PaddedBatch, Shortcuts, StraightforwardModel
from pipeline.benchmark.worker import whole_logits
from pipeline.data.batch import MicroBatch, View
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.model import heads
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.linear_cross_entropy import linear_cross_entropy
from pipeline.objectives import pretraining_model
from pipeline.objectives.base import LabelTensors
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.objectives.word_alignment import PARTNER, WordAlignment
from pipeline.settings.added_words import AddedWords
from pipeline.settings.schema import Run
from pipeline.training.saves import Saves
from pipeline.weights.hugging_face import hugging_face_state
from sinkhorn_align import AlignmentSettings

VOCAB_SIZE, LAYER = 64, 2
TOLERANCE = 1e-5
MakeSequences = Callable[..., Sequences]


def test_what_is_only_timed_saves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Saves, "due", Saves.due)  # is put back
    monkeypatch.setattr(benchmark_worker.train, "train", lambda config, resume: None)
    benchmark_worker.EVERY[OURS](CONFIG, [f"run.out={tmp_path}"])
    run = Run(out=tmp_path, steps=5)
    assert not Saves(run, None, None).due(5, True)  # type: ignore[arg-type]


@pytest.fixture
def ours(sizes: EncoderConfig) -> PretrainingModel:
    """All three objectives, with weights large enough that attention and pointers are not flat."""
    objectives = [MaskedLM("mlm", "mono"), MaskedLM("tlm", "pairs"), WordAlignment("dwa", LAYER, AlignmentSettings())]
    built = PretrainingModel(Encoder(sizes), objectives)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return built


@pytest.fixture
def batch(make_sequences: MakeSequences) -> MicroBatch:
    """Ragged blocks and pairs."""
    mono = make_sequences([40, 3, 17, 25, 60, 9])
    pairs = make_sequences([9, 1, 14, 30, 6, 22, 12], [7, 13, 14, 21, 1, 25, 16], seed=1)
    return MicroBatch(
        {
            name: collate(stream, 1, AddedWords(VOCAB_SIZE), [View(name, "masked")])
            for name, stream in (("mono", mono), ("pairs", pairs))
        }
    )


@torch.no_grad()
def labels_of(ours: PretrainingModel, batch: MicroBatch) -> dict[str, LabelTensors]:
    return {name: found["labels"] for name, found in ours("label", batch).items()}


def straightforward(ours: PretrainingModel, shortcuts: Shortcuts) -> StraightforwardModel:
    built = StraightforwardModel(ours, LAYER, AlignmentSettings(), shortcuts)
    # The pointer head is handed over, not copied: give this model one of its own.
    built.pointer = type(built.pointer)(built.pointer.query.in_features, 0.02)
    built.pointer.load_state_dict(ours.heads["word_alignment"].state_dict())
    return built


def gradients_by_name(ours: PretrainingModel, theirs: StraightforwardModel) -> list[tuple[str, Tensor, Tensor]]:
    """(Hugging Face's name, our gradient, their gradient) of every parameter; zero where none flowed."""

    def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in module.named_parameters()
        }

    encoder, head = gradients(ours.encoder), gradients(ours.heads["masked_lm"])
    named = hugging_face_state(encoder, head) | gradients(ours.heads["word_alignment"])
    others = gradients(theirs.language_model) | gradients(theirs.pointer)
    assert len(others) == len(list(ours.parameters()))
    return [(name, named[name], other) for name, other in others.items()]


@pytest.mark.parametrize("head_at_masked_tokens", [False, True])
@pytest.mark.parametrize("name", ["mlm", "tlm", "dwa"])
def test_loss_and_gradients_equal_a_padded_step(
    ours: PretrainingModel, batch: MicroBatch, name: str, head_at_masked_tokens: bool
) -> None:
    theirs = straightforward(ours, Shortcuts(head_at_masked_tokens=head_at_masked_tokens))
    labels = labels_of(ours, batch)
    padded = {stream: PaddedBatch.of(flat) for stream, flat in batch.streams.items()}
    padded["pairs"].partner_T = labels["dwa"][PARTNER]

    loss, expected = ours("losses", batch, labels)[name]["loss"], theirs("losses", padded)[name]
    torch.testing.assert_close(loss, expected, rtol=TOLERANCE, atol=0)
    assert float(expected.detach()) > 1
    loss.backward()
    expected.backward()
    compared = gradients_by_name(ours, theirs)
    whole = torch.stack([gradient.norm() for _, _, gradient in compared]).norm()
    for parameter, found, gradient in compared:
        # A parameter whose gradient is next to nothing (a key's bias moves no attention) is measured against the whole.
        assert (found - gradient).norm() <= TOLERANCE * max(gradient.norm(), 1e-2 * whole), parameter


@pytest.mark.parametrize("shortcuts", [Shortcuts(), Shortcuts(batched_labels=True, stop_at_label_layer=True)], ids=str)
@torch.no_grad()
def test_labels_are_the_same(ours: PretrainingModel, batch: MicroBatch, shortcuts: Shortcuts) -> None:
    partner_T, padded = labels_of(ours, batch)["dwa"][PARTNER], PaddedBatch.of(batch["pairs"])
    straightforward(ours, shortcuts)("label", {"pairs": padded})
    assert padded.partner_T is not None
    assert torch.equal(partner_T, padded.partner_T) and (partner_T >= 0).any()


def test_what_the_benchmark_switches_off_changes_no_loss(
    ours: PretrainingModel, batch: MicroBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = labels_of(ours, batch)
    passes: list[int] = []
    ours.encoder.register_forward_hook(lambda *_: passes.append(1))
    expected = {name: float(term["loss"].detach()) for name, term in ours("losses", batch, labels).items()}
    for module, name in ((heads, "linear_cross_entropy"), (pretraining_model, "MicroStepEncoder")):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored afterwards
    benchmark_worker.use_whole_logits()
    benchmark_worker.encode_streams_apart()
    assert heads.linear_cross_entropy is whole_logits is not linear_cross_entropy
    found = {name: float(term["loss"].detach()) for name, term in ours("losses", batch, labels).items()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(passes) == 1 + 2, "together, then apart"
