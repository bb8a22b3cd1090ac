"""Replaced tokens equal their definitions, written out slowly here: what is drawn, what it is called, what is lost by it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.data.batch import MicroBatch, StreamBatch, View
from pipeline.data.packing import pack
from pipeline.data.streams import Sequences
from pipeline.data.views.cloze import Cloze
from pipeline.data.views.collate import collate
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.model import attention
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.heads import MaskedLMHead
from pipeline.objectives import catalog
from pipeline.objectives.base import LabelTensors
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.pretraining_model import MicroStepEncoder, PretrainingModel
from pipeline.objectives.replaced_tokens import DETECTION, GENERATOR, IDS, ReplacedTokens
from pipeline.settings.added_words import AddedWords
from pipeline.settings.objectives import Objectives, ReplacedTokensTerm, Term
from pipeline.settings.sizes import count_parameters
from pipeline.weights.consolidate import hugging_face_parts
from pipeline.weights.hugging_face import build_encoder

VOCAB_SIZE, LAYERS = 64, 1
SOURCE, TARGET = [9, 1, 14, 30, 6, 2], [7, 3, 14, 11, 1, 22]
MASK = VOCAB_SIZE - 1
LAMBDA = 50.0
WORDS = AddedWords(VOCAB_SIZE)
MASKED = View("mono", "masked")
EMBEDDINGS = ("tied", "disentangled", "own")
MakeSequences = Callable[..., Sequences]


@pytest.fixture
def batch(make_sequences: MakeSequences) -> MicroBatch:
    """Four blocks and six ragged pairs."""
    sequences = {"mono": make_sequences([20, 5, 33, 40]), "pairs": make_sequences(SOURCE, TARGET, seed=1)}
    return MicroBatch({name: collate(sequences[name], 1, WORDS, [View(name, Cloze.name)]) for name in sequences})


def replaced_tokens(embeddings: Any = "tied", weight: float = LAMBDA) -> list[ReplacedTokens]:
    return [
        ReplacedTokens(name, stream, LAYERS, embeddings, weight)
        for name, stream in (("mrtd", "mono"), ("trtd", "pairs"))
    ]


def make_model(sizes: EncoderConfig, embeddings: Any = "tied", weight: float = LAMBDA) -> PretrainingModel:
    """With weights large enough that generator and discriminator have something to say."""
    model = PretrainingModel(Encoder(sizes), replaced_tokens(embeddings, weight)).double()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.3)
    for objective in model.objectives:
        objective.begin(model, pretrained=False)
    return model


def labels_of(model: PretrainingModel, batch: MicroBatch) -> dict[str, LabelTensors]:
    with torch.no_grad():
        return {name: found["labels"] for name, found in model("label", batch).items()}


def fixed_labels(stream: StreamBatch) -> LabelTensors:
    """Words that are the original's at every third blank."""
    cloze, ids_T = stream.view(Cloze), stream.clean.ids_T.clone()
    for number, place in enumerate(cloze.predicted_P.tolist()):
        if number % 3:
            ids_T[place] = 4 + (7 * number) % (MASK - 4)
    return {IDS: ids_T}


# Labels


@pytest.mark.parametrize("stream", ["mono", "pairs"])
def test_drawn_words_are_the_inverse_of_the_generator_s_distribution(
    batch: MicroBatch, sizes: EncoderConfig, stream: str
) -> None:
    model = make_model(sizes)
    name = {"mono": "mrtd", "pairs": "trtd"}[stream]
    with torch.no_grad():
        found = model("label", batch)[name]
    cloze, clean_T = batch[stream].view(Cloze), batch[stream].clean.ids_T
    ids_T, expected_T, replaced = found["labels"][IDS], clean_T.clone(), 0
    generator = model.heads[GENERATOR]
    hidden_TD = generator.encoder(cloze.packed)
    for place, number in zip(cloze.predicted_P.tolist(), cloze.uniform_P.tolist(), strict=True):
        logits_V = generator.head.transform(hidden_TD[place]) @ model.encoder.word.weight.T + generator.head.bias
        until_V = logits_V.detach().softmax(0).cumsum(0).numpy()
        expected_T[place] = int(np.searchsorted(until_V, number, side="right"))
        replaced += int(expected_T[place] != clean_T[place])
    assert torch.equal(ids_T, expected_T)
    assert int(found["metrics"]["replaced"]) == replaced > 0


def test_a_word_drawn_again_is_original_and_other_tokens_always_are(batch: MicroBatch, sizes: EncoderConfig) -> None:
    """By the loss: a discriminator that says "replaced" of the tokens that differ from the clean ones, and of no others."""
    objective, stream = replaced_tokens()[0], batch["mono"]
    labels = fixed_labels(stream)
    differs = [now != was for now, was in zip(labels[IDS].tolist(), stream.clean.ids_T.tolist(), strict=True)]
    blanks = set(stream.view(Cloze).predicted_P.tolist())
    assert 0 < sum(differs) < len(blanks) and {place for place, new in enumerate(differs) if new} < blanks
    says_T = torch.where(torch.tensor(differs), 9.0, -9.0)
    modules: Any = {**dict(make_model(sizes).heads.items()), DETECTION: lambda hidden_TD: says_T}
    found = objective.loss(lambda packed, layers=None: torch.zeros(packed.tokens, 1), modules, batch, labels)
    count = {name: int(found.metrics[name]) for name in ("said", "found", "tokens")}
    assert count == {"said": sum(differs), "found": sum(differs), "tokens": stream.clean.tokens}
    assert float(found.metrics["discriminator"]) == pytest.approx(stream.clean.tokens * np.log1p(np.exp(-9)), rel=1e-2)


# Losses


def padded_loss(model: PretrainingModel, stream: StreamBatch, labels: LabelTensors, weight: float) -> Tensor:
    """Each sequence alone, probabilities taken by their definition, in float64."""
    generator, detection, cloze = model.heads[GENERATOR], model.heads[DETECTION], stream.view(Cloze)
    loss, offsets = torch.zeros((), dtype=torch.double), stream.clean.offsets_S1.tolist()
    for first, end in pairwise(offsets):
        blank, drawn = (pack([ids.numpy()]) for ids in (cloze.packed.ids_T[first:end], labels[IDS][first:end]))
        guess_TD, told_TD = generator.encoder(blank), model.encoder(drawn)
        for place in range(first, end):
            if place in cloze.predicted_P.tolist():
                head, hidden_D = generator.head, guess_TD[place - first]
                transformed_D = head.norm(F.gelu(F.linear(hidden_D, head.dense.weight, head.dense.bias)))
                log_share_V = (generator.encoder.word.weight @ transformed_D + head.bias).log_softmax(0)
                loss = loss - log_share_V[stream.clean.ids_T[place]]
            dense, out = detection.dense, detection.out
            logit = F.linear(F.gelu(F.linear(told_TD[place - first], dense.weight, dense.bias)), out.weight, out.bias)
            replaced = torch.sigmoid(logit.squeeze())
            is_replaced = bool(labels[IDS][place] != stream.clean.ids_T[place])
            loss = loss - 0.15 * weight * (replaced if is_replaced else 1 - replaced).log()
    return loss


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize("stream", ["mono", "pairs"])
def test_the_loss_equals_the_definition(batch: MicroBatch, sizes: EncoderConfig, stream: str, embeddings: str) -> None:
    model = make_model(sizes, embeddings)
    labels = fixed_labels(batch[stream])
    name = {"mono": "mrtd", "pairs": "trtd"}[stream]
    found = model("losses", MicroBatch({stream: batch[stream]}), {name: labels})[name]
    expected = padded_loss(model, batch[stream], labels, LAMBDA)
    # The discriminator's logits are taken to fp32.
    torch.testing.assert_close(found["loss"], expected, rtol=1e-6, atol=0, check_dtype=False)
    assert float(found["generator"] + 0.15 * LAMBDA * found["discriminator"]) == pytest.approx(float(expected.detach()))
    variables = list(model.parameters())
    ours, theirs = (torch.autograd.grad(loss, variables, allow_unused=True) for loss in (found["loss"], expected))
    for (parameter, _), mine, own in zip(model.named_parameters(), ours, theirs, strict=True):
        torch.testing.assert_close(
            mine, torch.zeros_like(mine) if own is None else own, rtol=1e-4, atol=1e-5, msg=parameter
        )


def gradients(model: PretrainingModel, batch: MicroBatch, labels: dict[str, LabelTensors]) -> dict[str, Tensor]:
    torch.stack([term["loss"] for term in model("losses", batch, labels).values()]).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_with_the_discriminator_s_weight_0_the_generator_is_a_masked_lm(
    batch: MicroBatch, sizes: EncoderConfig
) -> None:
    model = make_model(sizes, "own", weight=0.0)
    found = gradients(model, batch, labels_of(model, batch))
    generator = model.heads[GENERATOR]
    total = torch.zeros((), dtype=torch.double)
    for stream in batch.streams.values():
        cloze = stream.view(Cloze)
        masked = MicroBatch({"mono": StreamBatch(stream.clean, stream.languages_S, stream.sample_S)})
        masked["mono"].views[MASKED] = MaskedTokens(cloze.packed, cloze.predicted_P, cloze.target_ids_P)
        encode = MicroStepEncoder(generator.encoder)
        total = total + MaskedLM("mlm", "mono").loss(encode, {"masked_lm": generator.head}, masked, {}).total
    total.backward()
    for name, parameter in generator.named_parameters():
        torch.testing.assert_close(found[f"heads.{GENERATOR}.{name}"], parameter.grad, rtol=1e-9, atol=1e-12)
    assert not any(gradient.any() for name, gradient in found.items() if name.startswith("encoder."))


def test_nothing_is_differentiated_through_the_draw(batch: MicroBatch, sizes: EncoderConfig) -> None:
    """With tables of its own the generator learns the same, whatever the discriminator's loss weighs."""
    models = [make_model(sizes, "own", weight) for weight in (0.0, LAMBDA)]
    models[1].load_state_dict(models[0].state_dict())
    labels = labels_of(models[0], batch)
    without, having = (gradients(model, batch, labels) for model in models)
    for name, gradient in without.items():
        if name.startswith(f"heads.{GENERATOR}."):
            torch.testing.assert_close(having[name], gradient, rtol=0, atol=0)
        else:
            assert not gradient.any() and (having[name].any() or having[name].dim() == 1), name


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
def test_tables_are_shared_only_where_they_are_tied(sizes: EncoderConfig, embeddings: str) -> None:
    model = make_model(sizes, embeddings)
    generator, encoder = model.heads[GENERATOR].encoder, model.encoder
    for table in ("word", "position"):
        own, theirs = getattr(generator, table).weight, getattr(encoder, table).weight
        assert (own is theirs) == (embeddings != "own")
    assert model.heads[GENERATOR].head.weight is generator.word.weight
    assert generator.token_type.weight is not encoder.token_type.weight
    names = {name for name, _ in model.named_parameters()}
    assert ("heads.generator.encoder.word.weight" in names) == (embeddings == "own")
    term = ReplacedTokensTerm(generator_layers=LAYERS, embeddings=embeddings)
    terms = Objectives(mlm=None, tlm=None, dwa=None, mrtd=term, trtd=term)
    counted = count_parameters(sizes, catalog.count_parameters(terms, sizes))["total"]
    assert counted == sum(parameter.numel() for parameter in model.parameters())


def test_disentangled_tables_begin_as_tied_ones_and_the_discriminator_moves_only_its_difference(
    batch: MicroBatch, sizes: EncoderConfig
) -> None:
    tied, apart = make_model(sizes), make_model(sizes, "disentangled")
    apart.load_state_dict(tied.state_dict(), strict=False)
    packed = batch["mono"].clean
    assert torch.equal(apart.encoder(packed), tied.encoder(packed))
    labels = labels_of(tied, batch)
    assert all(torch.equal(labels_of(apart, batch)[name][IDS], labels[name][IDS]) for name in labels)
    shared, own = gradients(tied, batch, labels), gradients(apart, batch, labels)
    generator_s = gradients(with_weight(tied, 0.0), batch, labels)
    for table in ("word", "position"):
        whole, shares, delta = f"encoder.{table}.weight", own[f"encoder.{table}.weight"], own[f"encoder.{table}.delta"]
        torch.testing.assert_close(shares, generator_s[whole], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(shares + delta, shared[whole], rtol=1e-6, atol=1e-9)
        assert delta.any() and shares.any()


def test_disentangled_tables_are_whole_wherever_a_model_is_read(batch: MicroBatch, sizes: EncoderConfig) -> None:
    model = make_model(sizes, "disentangled")
    for table in (model.encoder.word, model.encoder.position):
        nn.init.normal_(table.delta, std=0.3)
    state = hugging_face_parts({name: tensor.float() for name, tensor in model.state_dict().items()}, Path("run"))
    read = build_encoder(sizes, state, Path("run"))
    packed = batch["pairs"].clean
    torch.testing.assert_close(read(packed), model.encoder(packed).float(), rtol=1e-4, atol=1e-4)
    assert set(read.state_dict()) == set(Encoder(sizes).state_dict())


def with_weight(model: PretrainingModel, weight: float) -> PretrainingModel:
    """The same model; the discriminator's loss weighs so much."""
    other = PretrainingModel(model.encoder, replaced_tokens(weight=weight))
    other.heads = model.heads
    return other


@pytest.mark.parametrize("blanks", [True, False])
@pytest.mark.parametrize("names", ["mrtd", "trtd", "mrtd trtd", "mlm tlm mrtd trtd"])
def test_every_parameter_gets_a_gradient(
    make_sequences: MakeSequences, sizes: EncoderConfig, names: str, blanks: bool
) -> None:
    objectives = [MaskedLM("mlm", "mono"), MaskedLM("tlm", "pairs"), *replaced_tokens()]
    model = PretrainingModel(Encoder(sizes), [one for one in objectives if one.name in names.split()])
    sequences = {"mono": make_sequences([20, 5, 33]), "pairs": make_sequences(SOURCE, TARGET)}
    views = {name: sorted({v for one in model.objectives for v in one.reads if v.stream == name}) for name in sequences}
    batch = MicroBatch({name: collate(sequences[name], 1, WORDS, views[name]) for name in sequences if views[name]})
    if not blanks:
        for name, stream in batch.streams.items():
            nobody = torch.zeros(0, dtype=torch.long)
            stream.views[View(name, "cloze")] = Cloze(stream.clean, nobody, nobody, nobody.double())
    found = gradients(model, batch, labels_of(model, batch))
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() for gradient in found.values())
    if blanks:
        own = {name: gradient for name, gradient in found.items() if name.startswith("heads.") and gradient.dim() == 2}
        assert len(own) > 6 and all(gradient.any() for gradient in own.values())


# What is counted and reported


def test_reports_are_shares_and_means_and_survive_nothing_found() -> None:
    sums = {"loss": 40.0, "generator": 20.0, "discriminator": 30.0, "correct": 1.0, "tokens": 60.0}
    sums |= {"replaced": 5.0, "said": 8.0, "found": 2.0}
    objective = replaced_tokens()[0]
    assert objective.report(sums, 10) == {
        "loss": 4.0,
        "generator_loss": 2.0,
        "discriminator_loss": 0.5,
        "generator_accuracy": 0.1,
        "replaced": 0.5,
        "recall": 0.4,
        "precision": 0.25,
    }
    assert set(objective.report(dict.fromkeys(sums, 0.0), 0).values()) == {0.0}


def test_operations_are_those_of_a_dry_run_and_of_the_passes(batch: MicroBatch, sizes: EncoderConfig) -> None:
    model = make_model(sizes)
    term = ReplacedTokensTerm(generator_layers=LAYERS)
    terms = Objectives(mlm=None, tlm=None, dwa=None, mrtd=term, trtd=term)

    class Sample:
        def __init__(self, stream: StreamBatch) -> None:
            self.lengths_S, self.tokens = stream.clean.sequence_lengths, stream.clean.tokens
            self.predicted, self.sides_C = len(stream.view(Cloze).predicted_P), np.empty(0, np.int64)

    planned = sum(
        catalog.flops(terms, name, sizes, sizes.layers, Sample(stream)) for name, stream in batch.streams.items()
    )
    assert planned == pytest.approx(model.flops(batch))
    seen: list[tuple[int, int]] = []
    for encoder in (model.encoder, model.heads[GENERATOR].encoder):
        encoder.register_forward_hook(lambda module, given, out: seen.append((module.config.layers, given[0].tokens)))
    model("losses", batch, labels_of(model, batch))
    tokens = [stream.clean.tokens for stream in batch.streams.values()]
    drawing = [(LAYERS, count) for count in tokens]
    learning = [(layers, count) for count in tokens for layers in (LAYERS, sizes.layers)]
    assert seen == drawing + learning, "the generator draws, then it learns, and the encoder reads once"


def test_a_step_never_asks_the_device_for_a_value(
    batch: MicroBatch, sizes: EncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "takes_products", lambda *_: False)  # for CPUs alone, and looks at its sums
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = PretrainingModel(Encoder(sizes), replaced_tokens())
        fake = batch.map(mode.from_tensor)
        labels = labels_of(model, fake)
        terms = model("losses", fake, labels)
        for objective in model.objectives:
            objective.count(fake, labels[objective.name])
        torch.stack([term["loss"] for term in terms.values()]).sum().backward()


# Beginnings and mistakes


@pytest.mark.parametrize("embeddings", ["tied", "own"])
def test_beside_a_pretrained_encoder_the_generator_begins_as_its_lowest_layers(
    batch: MicroBatch, sizes: EncoderConfig, embeddings: str
) -> None:
    model = make_model(sizes, embeddings)
    packed, generator = batch["mono"].clean, model.heads[GENERATOR].encoder
    assert not torch.allclose(generator(packed), model.encoder(packed, LAYERS))
    for objective in model.objectives:
        objective.begin(model, pretrained=True)
    torch.testing.assert_close(generator(packed), model.encoder(packed, LAYERS))
    assert isinstance(model.heads[GENERATOR].head, MaskedLMHead)


def test_settings_that_do_not_go_together_are_one_line() -> None:
    two, four = ReplacedTokensTerm(generator_layers=2), ReplacedTokensTerm()
    with pytest.raises(ValueError, match=r"mrtd\.generator_layers = 2 and trtd\.generator_layers = 4: they have one"):
        Objectives(mrtd=two, trtd=four)
    with pytest.raises(
        ValueError, match=r"trtd\.embeddings = disentangled: mlm and tlm predict words .* make them null"
    ):
        Objectives(tlm=None, trtd=ReplacedTokensTerm(embeddings="disentangled"))
    terms = Objectives(mlm=Term(), tlm=None, dwa=None, mrtd=four)
    with pytest.raises(ValueError, match=r"objectives\.mrtd\.generator_layers = 4: the model has 3 layers"):
        catalog.check_layers(terms, 3)
