"""Sentence contrast: a step against a slow definition however it is cut, and the slow encoder against its closed form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.data.batch import MicroBatch, View
from pipeline.data.streams import Sequences
from pipeline.data.views.apart import Apart
from pipeline.data.views.collate import collate
from pipeline.model import attention
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.objectives import catalog
from pipeline.objectives.base import LabelTensors
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.objectives.sentence_contrast import TEXTS, VECTORS
from pipeline.objectives.slow_keys import ENCODER, QUEUE, SLOW_PROJECTION, STEP_VECTORS
from pipeline.objectives.slow_weights import cut_copy, follow
from pipeline.settings.added_words import AddedWords
from pipeline.settings.objectives import ContrastTerm, Objectives
from pipeline.settings.schema import Model
from pipeline.training import replicated

VOCAB_SIZE, LAYERS, LAYER, SAMPLES = 64, 3, 2, 8
LENGTHS = [9, 1, 14, 30, 6, 2, 4, 4], [7, 3, 14, 11, 1, 22, 4, 5]
MakeSequences = Callable[..., Sequences]


def batches(make_sequences: MakeSequences, parts: int, seed: int = 0) -> list[MicroBatch]:
    """The same eight ragged pairs in so many micro-batches."""
    whole = make_sequences(*LENGTHS, seed=seed)
    found = []
    for part in range(parts):
        own = slice(part * SAMPLES // parts, (part + 1) * SAMPLES // parts)
        sequences = copy.copy(whole)
        sequences.ids_T = np.concatenate(whole.ids[own])
        for name in ("lengths_S", "language_S", "key_S", "sample_S", "side_lengths_S2"):
            setattr(sequences, name, getattr(whole, name)[own])
        found.append(
            MicroBatch({"contrast": collate(sequences, 1, AddedWords(VOCAB_SIZE), [View("contrast", Apart.name)])})
        )
    return found


def settings(**changes: Any) -> ContrastTerm:
    given = {"layer": LAYER, "queue": 16, "mixing": "none", "masked": False, "momentum": 0.9, "fill": False, **changes}
    return ContrastTerm(**given)


OWN_KEYS = {"queue": 0, "in_batch": True, "momentum": None}


def model_of(term: ContrastTerm) -> PretrainingModel:
    torch.manual_seed(3)
    sizes = EncoderConfig(VOCAB_SIZE, LAYERS, 16, positions=66, heads=2, feed_forward=32, init_std=0.3)
    model = PretrainingModel(Encoder(sizes), [catalog.ENTRIES["contrast"].build("contrast", term, Model())])
    model.add_twins()
    return model


def labels_of(model: PretrainingModel, micro: list[MicroBatch]) -> list[dict[str, LabelTensors]]:
    """As a step labels, on one rank."""
    (objective,) = model.objectives
    with torch.no_grad():
        own = [model("label", batch)["contrast"]["labels"] for batch in micro]
        return [{"contrast": told} for told in objective.exchange(own)]


def step(model: PretrainingModel, micro: list[MicroBatch], read: bool = True) -> tuple[float, dict[str, float]]:
    """One step's summed loss and metrics, if they are to be read; gradients add up in the model."""
    labels = labels_of(model, micro)
    sums: dict[str, float] = {}
    for batch, labelled in zip(micro, labels, strict=True):
        found = model("losses", batch, labelled)["contrast"]
        found["loss"].backward()
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + (float(value.detach()) if read else 0.0)
    (objective,) = model.objectives
    with torch.no_grad():
        objective.after_step(model, 1, True, [labelled["contrast"] for labelled in labels])
    return sums.pop("loss"), sums


def vectors(encoder: Any, matrix: Any, batch: MicroBatch, term: ContrastTerm) -> list[Tensor]:
    """Each side's vectors, sentence by sentence."""
    found = []
    for packed in batch["contrast"].view(Apart).sides:
        hidden = encoder(packed, LAYER)
        parts = [hidden[a:b] for a, b in pairwise(packed.offsets_S1.tolist())]
        of_side = torch.stack([part[0] if term.pooling == "first" else part.mean(0) for part in parts])
        of_side = of_side if matrix is None else of_side @ matrix.weight.T
        found.append(F.normalize(of_side, dim=-1) if term.similarity == "cosine" else of_side)
    return found


def slow_loss(model: PretrainingModel, whole: MicroBatch, term: ContrastTerm, queue: Tensor | None) -> Tensor:
    """The step's loss by its definition, over the uncut batch."""
    matrix = model.heads["sentence_projection"] if term.projection else None
    queries = keys = vectors(model.encoder, matrix, whole, term)
    if term.momentum is not None:
        with torch.no_grad():
            slow_matrix = model.twins[SLOW_PROJECTION] if term.projection else None
            keys = vectors(model.twins[ENCODER], slow_matrix, whole, term)
    total = torch.zeros(())
    for side in (0, 1) if term.both_directions else (0,):
        for sample in range(SAMPLES):
            own = queries[side][sample] @ keys[1 - side][sample]
            scores = [own]
            if term.in_batch:
                scores += [queries[side][sample] @ keys[1 - side][n] for n in range(SAMPLES) if n != sample]
            if queue is not None:
                scores += [queries[side][sample] @ key for key in queue]
            total = total - (torch.stack(scores) / term.temperature).log_softmax(0)[0]
    return total


CASES = [
    {},
    {"both_directions": True},
    {"in_batch": True, "similarity": "cosine", "temperature": 0.05},
    {"in_batch": True, "both_directions": True, "projection": False, "pooling": "mean", "queue": 0},
    OWN_KEYS,
    {**OWN_KEYS, "both_directions": True, "similarity": "cosine"},
    {**OWN_KEYS, "projection": False, "pooling": "mean", "temperature": 2.0},
]


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("changes", CASES)
def test_a_step_equals_its_definition_however_it_is_cut(
    make_sequences: MakeSequences, changes: dict[str, Any], parts: int
) -> None:
    term = settings(**changes)
    model = model_of(term)
    queue = None
    if term.queue:  # half full, with texts of no sample
        step(model, batches(make_sequences, 2, seed=9))
        model.zero_grad()
        queue = model.twins[QUEUE].keys_QD[: SAMPLES * term.directions].clone()
    (whole,) = batches(make_sequences, 1)
    expected = slow_loss(model, whole, term, queue)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    loss, sums = step(model, batches(make_sequences, parts))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None, name
        wanted = torch.zeros_like(parameter) if gradient is None else gradient
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=2e-6 * scale, msg=name)
    assert 0 <= sums["retrieved"] <= SAMPLES * term.directions
    negatives = (SAMPLES * term.directions if term.queue else 0) + (SAMPLES - 1 if term.in_batch else 0)
    assert sums["negatives"] == negatives * SAMPLES * term.directions


def test_equal_texts_are_no_negatives(make_sequences: MakeSequences) -> None:
    model = model_of(settings())
    step(model, batches(make_sequences, 1))
    _, sums = step(model, batches(make_sequences, 2))
    assert sums["negatives"] == SAMPLES * (SAMPLES - 1), "the queue holds each one's own key of the step before"


def test_keys_go_into_the_queue_in_the_order_of_samples_when_a_step_was_applied(make_sequences: MakeSequences) -> None:
    term = settings(both_directions=True)
    whole, cut = model_of(term), model_of(term)
    step(whole, batches(make_sequences, 1))
    step(cut, batches(make_sequences, 4))
    for name, tensor in replicated.state(whole.twins).items():
        torch.testing.assert_close(replicated.state(cut.twins)[name], tensor, rtol=1e-5, atol=1e-5)
    (batch,) = batches(make_sequences, 1)
    keys = vectors(model_of(term).twins[ENCODER], model_of(term).twins[SLOW_PROJECTION], batch, term)
    expected = torch.stack([keys[1], keys[0]], dim=1).flatten(0, 1)
    torch.testing.assert_close(cut.twins[QUEUE].keys_QD, expected.detach())
    assert cut.twins[QUEUE].text_Q.equal(batch["contrast"].view(Apart).text_B2.flip(1).flatten())


def test_neither_labelling_nor_a_skipped_step_moves_anything(make_sequences: MakeSequences) -> None:
    model = model_of(settings())
    step(model, batches(make_sequences, 2))
    held = {**replicated.state(model.twins), **dict(model.named_parameters())}
    before = {name: tensor.detach().clone() for name, tensor in held.items()}
    random = torch.get_rng_state()
    labels = labels_of(model, batches(make_sequences, 2, seed=1))
    for batch, labelled in zip(batches(make_sequences, 2, seed=1), labels, strict=True):
        del labelled["contrast"]["step_text_B2"], labelled["contrast"]["step_second_BD"]  # as in validation
        assert model("losses", batch, labelled)["contrast"]["loss"] > 0
    model.objectives[0].after_step(model, 2, False, [labelled["contrast"] for labelled in labels])
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in {**replicated.state(model.twins), **dict(model.named_parameters())}.items():
        assert torch.equal(tensor, before[name]), name


def test_the_queue_is_filled_before_training_and_only_if_told(make_sequences: MakeSequences) -> None:
    for fill in (True, False):
        model, asked = model_of(settings(fill=fill)), []

        def step_batches(number: int, asked: list[int] = asked) -> list[MicroBatch]:
            asked.append(number)
            return batches(make_sequences, 2, seed=number)

        with torch.no_grad():
            model.objectives[0].before_training(model, step_batches)
        assert asked == ([0, 1] if fill else [])
        assert int(model.twins[QUEUE].enqueued) == (16 if fill else 0)


# The slow encoder


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_slow_weights_are_the_closed_form_of_the_average(momentum: float) -> None:
    encoder = model_of(settings()).encoder
    slow = model_of(settings()).twins[ENCODER]
    began = {name: tensor.clone() for name, tensor in slow.named_buffers()}
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += torch.randn_like(parameter)
        for _ in range(5):
            follow(slow, encoder, momentum)
    trained = dict(encoder.named_parameters())
    assert len(began) == len([name for name in trained if not name.startswith("layers.2.")]), "as far as its layer"
    for name, tensor in slow.named_buffers():
        expected = trained[name] + momentum**5 * (began[name] - trained[name])
        if momentum in (0.0, 1.0):
            assert torch.equal(tensor, trained[name] if momentum == 0 else began[name]), name
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)


def test_slow_weights_of_a_bf16_encoder_move_by_less_than_bf16_can_tell() -> None:
    model = model_of(settings())
    slow = model.twins[ENCODER]
    began = {name: tensor.clone() for name, tensor in slow.named_buffers()}
    with torch.no_grad():
        model.encoder.bfloat16()
        for parameter in model.encoder.parameters():
            parameter *= 1.05
        for _ in range(100):
            follow(slow, model.encoder, 0.9999)
    for name, tensor in slow.named_buffers():
        trained = model.encoder.get_parameter(name).float()
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, trained + 0.9999**100 * (began[name] - trained), rtol=1e-4, atol=1e-6)


def test_a_cut_copy_computes_what_the_encoder_does_as_far_as_it_goes(make_sequences: MakeSequences) -> None:
    encoder = model_of(settings()).encoder
    (batch,) = batches(make_sequences, 1)
    packed = batch["contrast"].view(Apart).first
    cut = cut_copy(encoder, LAYER)
    assert len(cut.layers) == LAYER and len(encoder.layers) == LAYERS
    torch.testing.assert_close(cut(packed), encoder(packed, LAYER))
    assert cut.word.weight is not encoder.word.weight


# The catalog


@pytest.mark.parametrize("changes", CASES)
def test_operations_are_planned_as_they_are_counted(make_sequences: MakeSequences, changes: dict[str, Any]) -> None:
    term = settings(**changes)
    model = model_of(term)
    micro = batches(make_sequences, 2)
    labels_of(model, micro)
    (whole,) = batches(make_sequences, 1)

    class Sample:
        lengths_S, tokens, predicted, of_step = whole["contrast"].clean.sequence_lengths, whole.tokens, 0, SAMPLES
        sides_C = np.array(LENGTHS).T.flatten()

    terms = Objectives(mlm=None, tlm=None, dwa=None, contrast=term)
    planned = catalog.flops(terms, "contrast", model.encoder.config, LAYERS, Sample())
    assert planned == pytest.approx(sum(map(model.flops, micro)))
    assert catalog.count_parameters(terms, model.encoder.config) == (16 * 16 if term.projection else 0)


def test_a_layer_that_the_model_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"objectives\.contrast\.layer = 2: the model has 1 layers"):
        catalog.check_layers(Objectives(dwa=None, contrast=settings()), 1)


def test_what_a_rank_holds_beside_the_weights_is_planned(make_sequences: MakeSequences) -> None:
    for changes in CASES:
        term = settings(**changes)
        model = model_of(term)
        costs = catalog.costs(Objectives(contrast=term), "contrast", model.encoder.config, SAMPLES, SAMPLES)
        assert costs.replicated == replicated.bytes_of(model.twins)
        labels = labels_of(model, batches(make_sequences, 1))[0]["contrast"]
        vectors = VECTORS if term.momentum is None else [name for name in STEP_VECTORS if name in labels]
        assert costs.exchanged == sum(labels[name].nbytes for name in [TEXTS, *vectors])


@pytest.mark.parametrize("changes", [{"pooling": "mean", "both_directions": True, "in_batch": True}, OWN_KEYS])
def test_a_step_never_asks_the_device_for_a_value(
    make_sequences: MakeSequences, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors have shapes and no values: whatever would make the host wait for a GPU raises on them."""
    monkeypatch.setattr(attention, "takes_products", lambda *_: False)  # for CPUs alone, and looks at its sums
    model, micro = model_of(settings(**changes)), batches(make_sequences, 2)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        step(model, [batch.map(mode.from_tensor) for batch in micro], read=False)
