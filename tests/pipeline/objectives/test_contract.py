"""What the contract of objectives promises: views apart, passes shared, zeros where nobody reads, state in its own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.data.batch import MicroBatch, View
from pipeline.data.packing import pack
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import add_kind, collate
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.flops import encoder_forward_flops
from pipeline.objectives import catalog
from pipeline.objectives.base import Asked
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.pretraining_model import MicroStepEncoder, PretrainingModel, as_buffers, passes
from pipeline.objectives.word_alignment import WordAlignment
from pipeline.settings.added_words import AddedWords
from pipeline.settings.align_options import Way
from pipeline.settings.objectives import ContrastTerm, Objectives, Term, TokenContrastTerm
from pipeline.settings.schema import Model, Optimizer
from pipeline.training import ranks, replicated
from pipeline.training.build import parameter_groups
from pipeline.training.step import denominators
from sinkhorn_align import AlignmentSettings
from tests.pipeline.objectives.objective_kit import LAYER, Blotted, Probe, ProbeTerm

WORDS = AddedWords(64)
MASKED, BLOTTED = View("pairs", "masked"), View("pairs", "blotted")
MakeSequences = Callable[..., Sequences]


@pytest.fixture
def pairs(make_sequences: MakeSequences) -> Sequences:
    return make_sequences([9, 1, 14, 30], [7, 3, 14, 11])


def probe() -> Probe:
    return Probe("probe", ProbeTerm())


# Views


def test_a_view_is_the_same_whatever_others_are_made(pairs: Sequences) -> None:
    alone, both = (collate(pairs, 1, WORDS, views) for views in ([MASKED], [BLOTTED, MASKED]))
    assert list(alone.views) == [MASKED] and list(both.views) == [BLOTTED, MASKED]
    one, other = alone.view(MaskedTokens), both.view(MaskedTokens)
    assert torch.equal(one.packed.ids_T, other.packed.ids_T) and torch.equal(one.predicted_P, other.predicted_P)
    assert torch.equal(collate(pairs, 1, WORDS, [BLOTTED]).view(Blotted).packed.ids_T, both.view(Blotted).packed.ids_T)


def test_a_kind_of_view_needs_a_name_and_a_counter_of_its_own() -> None:
    for name, counter in (("masked", 99), ("other", MaskedTokens.counter), ("other", 1)):
        with pytest.raises(AssertionError, match="is known already"):
            add_kind(SimpleNamespace(name=name, counter=counter))


# Passes of the encoder


def test_one_pass_serves_all_layers_of_a_batch_and_batches_that_go_equally_deep_are_joined() -> None:
    first, second, third = pack([[4, 5]]), pack([[6]]), pack([[7, 8, 9]])
    found = passes([Asked(first), Asked(first, 1), Asked(second, 1), Asked(third, 3)], layers=3)
    assert [(one.parts, one.layers) for one in found] == [([first, third], {1, 3}), ([second], {1})]


def test_every_layer_that_is_asked_for_comes_from_one_pass(sizes: EncoderConfig) -> None:
    encoder, calls = Encoder(sizes), []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    one, other = pack([[4, 5, 6]]), pack([[7], [8, 9]])
    encode = MicroStepEncoder(encoder, [Asked(one), Asked(one, 1), Asked(other)])
    found = [encode(one, 1), encode(other), encode(one)]
    assert len(calls) == 1
    for hidden_TD, (packed, layer) in zip(found, [(one, 1), (other, None), (one, None)], strict=True):
        torch.testing.assert_close(hidden_TD, encoder(packed, layer))
    assert encode(other, 2) is encode(other, 2) and len(calls) == 1 + 3 + 1, "not said before: a pass of its own"


def test_only_what_is_asked_for_is_encoded_and_counted(pairs: Sequences, sizes: EncoderConfig) -> None:
    model = PretrainingModel(Encoder(sizes), [probe()])
    model.add_twins()
    batch = MicroBatch({"pairs": collate(pairs, 1, WORDS, [MASKED, BLOTTED])})
    seen: list[tuple[int, int]] = []
    model.encoder.register_forward_hook(lambda module, given, output: seen.append((given[0].tokens, given[1])))
    labels = {name: found["labels"] for name, found in model("label", batch).items()}
    model("losses", batch, labels)
    assert seen == [(batch.tokens, LAYER)] * 2
    one = encoder_forward_flops(sizes, batch["pairs"].clean.sequence_lengths, LAYER)
    assert model.flops(batch) == 4 * one, "labelling, forward and backward"


# Parameters that no loss reads


@pytest.mark.parametrize("with_others", [False, True])
def test_parameters_that_no_loss_reads_get_zeros(pairs: Sequences, sizes: EncoderConfig, with_others: bool) -> None:
    objectives: list[Any] = [probe()]
    if with_others:
        objectives += [MaskedLM("tlm", "pairs"), WordAlignment("dwa", 2, AlignmentSettings())]
    model = PretrainingModel(Encoder(sizes), objectives)
    model.heads["nobodys"] = nn.Linear(3, 3)
    model.add_twins()
    batch = MicroBatch({"pairs": collate(pairs, 1, WORDS, [MASKED, BLOTTED])})
    with torch.no_grad():
        labels = {name: found["labels"] for name, found in model("label", batch).items()}
        model.encoder.layers[2].up.weight[0, 0] = float("inf")  # nothing may be read of it
    if not with_others:
        sum(term["loss"] for term in model("losses", batch, labels).values()).backward()  # type: ignore[union-attr]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            unread = name.startswith(("encoder.layers.1.", "encoder.layers.2.", "heads.nobodys."))
            assert bool(parameter.grad.any()) is not unread or parameter.dim() == 1, name
        return
    model.encoder.layers[2].up.weight.data[0, 0] = 0.0
    sum(term["loss"] for term in model("losses", batch, labels).values()).backward()  # type: ignore[union-attr]
    assert not model.heads["nobodys"].weight.grad.any()
    assert all(parameter.grad is not None for parameter in model.parameters())


# Denominators


def test_pooled_terms_share_a_denominator_and_the_others_have_their_own() -> None:
    objectives: Any = [
        SimpleNamespace(name=name, pooled=pooled)
        for name, pooled in (("a", True), ("b", False), ("c", True), ("d", False))
    ]
    found = denominators(objectives, torch.tensor([1.0, 20.0, 300.0, 4000.0], dtype=torch.double))
    assert [(names, float(total)) for names, total in found] == [(["a", "c"], 301), (["b"], 20), (["d"], 4000)]
    assert [names for names, _ in denominators(objectives[1:2], torch.ones(1))] == [["b"]]


# Learning rates


def test_a_module_has_the_rate_that_its_objective_declares(sizes: EncoderConfig) -> None:
    model = PretrainingModel(Encoder(sizes), [MaskedLM("mlm", "mono"), probe()])
    (encoder, _), (heads, _) = parameter_groups(model, Optimizer(heads_lr=1e-3), 10)
    assert {id(p) for p in model.heads["probe"].parameters()} <= set(map(id, encoder))
    assert sorted(map(id, encoder + heads)) == sorted(map(id, model.parameters()))
    assert id(model.heads["masked_lm"].weight) in set(map(id, encoder)), "tied to the word embedding"
    assert len(heads) == 5


# State beside what is trained


@pytest.fixture
def model(sizes: EncoderConfig) -> PretrainingModel:
    built = PretrainingModel(Encoder(sizes), [probe()])
    built.add_twins()
    return built


def info(*files: str) -> CheckpointInfo:
    return CheckpointInfo(1, 1, 1, "fp32", "", {}, {}, files={name: {} for name in files})


def test_twins_are_neither_trained_nor_part_of_the_state_dict_and_stay_fp32_on_their_own(
    model: PretrainingModel,
) -> None:
    assert {name for name, _ in model.named_parameters()} == {
        name for name, _ in PretrainingModel(model.encoder, [probe()]).named_parameters()
    }
    assert not [name for name in model.state_dict() if "slow" in name or "queue" in name]
    assert {name: tensor.dtype for name, tensor in replicated.state(model.twins).items()} == {
        "slow_probe.weight": torch.float32,
        "slow_probe.bias": torch.float32,
        "probe_queue.keys_QD": torch.float32,
        "probe_queue.next": torch.int64,
    }
    half = as_buffers(nn.Linear(2, 2).half())
    assert half.weight.dtype == torch.float32 and not list(half.parameters())


def test_a_model_without_twins_has_no_file_and_is_saved_as_ever(sizes: EncoderConfig, tmp_path: Path) -> None:
    plain = PretrainingModel(Encoder(sizes), [MaskedLM("mlm", "mono")])
    plain.add_twins()
    replicated.save(plain.twins, tmp_path)
    assert not list(tmp_path.iterdir()) and "_twins" not in dict(plain.named_children())
    replicated.load(plain.twins, tmp_path, info())


def test_the_file_brings_back_every_byte(model: PretrainingModel, sizes: EncoderConfig, tmp_path: Path) -> None:
    for tensor in replicated.state(model.twins).values():
        tensor.copy_(torch.randn(tensor.shape) * 9)
    replicated.save(model.twins, tmp_path)
    other = PretrainingModel(Encoder(sizes), [probe()])
    other.add_twins()
    replicated.load(other.twins, tmp_path, info(replicated.NAME))
    found = replicated.state(other.twins)
    assert all(np.array_equal(t.numpy(), found[name].numpy()) for name, t in replicated.state(model.twins).items())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda held: held.pop("slow_probe.bias"), "holds no slow_probe.bias"),
        (lambda held: held.update(other=torch.zeros(1)), "no objective of this run keeps, other"),
        (lambda held: held.update({"slow_probe.bias": torch.zeros(3)}), r"is float32 \[3\], this run has float32 \[16\]"),
        (lambda held: held.update({"slow_probe.bias": torch.zeros(16).half()}), r"slow_probe.bias is float16 \[16\]"),
    ],
)  # fmt: skip
def test_another_state_is_refused_in_one_line(
    model: PretrainingModel, tmp_path: Path, change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    held = dict(replicated.state(model.twins))
    change(held)
    torch.save(held, tmp_path / replicated.NAME)
    with pytest.raises(ValueError, match=expected) as error:
        replicated.load(model.twins, tmp_path, info(replicated.NAME))
    assert "\n" not in str(error.value) and str(tmp_path / replicated.NAME) in str(error.value)


def test_a_checkpoint_without_the_file_and_one_that_holds_code_are_refused(
    model: PretrainingModel, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"manifest.json: lists no replicated.pt, which has slow_probe"):
        replicated.load(model.twins, tmp_path, info())
    torch.save({"slow_probe.bias": Path("x")}, tmp_path / replicated.NAME)
    with pytest.raises(ValueError, match="could run code"):
        replicated.load(model.twins, tmp_path, info(replicated.NAME))


def test_ranks_that_differ_and_rounded_twins_are_told(model: PretrainingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "gather", lambda values: [*values, *values])
    replicated.check_equal(model.twins)
    monkeypatch.setattr(ranks, "gather", lambda values: [*values, ["other", *values[0][1:]]])
    with pytest.raises(ValueError, match=r"^slow_probe.* differs between ranks"):
        replicated.check_equal(model.twins)
    replicated.check_precision(model.twins, Path("zero.json"))
    with pytest.raises(ValueError, match=r"zero.json: data_types.buffer_dtype makes slow_probe.* bfloat16"):
        replicated.check_precision(
            nn.ModuleDict({"slow_probe": model.twins["slow_probe"].bfloat16()}), Path("zero.json")
        )


# The catalog


def test_the_catalog_says_of_each_objective_what_the_objective_does() -> None:
    settings = Objectives(token_contrast=TokenContrastTerm(), contrast=ContrastTerm())
    built = {name: catalog.ENTRIES[name].build(name, term, Model()) for name, term in settings.active().items()}
    for name, objective in built.items():
        entry = catalog.ENTRIES[name]
        assert objective.name == name and objective.streams == sorted(entry.streams)
        keys = ("loss", "correct", "agreement", "probability", "links", "pairs", "unalignable_pairs")
        sums = dict.fromkeys((*keys, "retrieved", "similarity", "negatives"), 1.0)
        assert set(objective.report(sums, 1.0)) == {"loss", *(figure.key for figure in entry.figures)}
    assert catalog.streams(settings) == ["contrast", "mono", "pairs"]
    assert catalog.streams(Objectives(mlm=None, dwa=None)) == ["pairs"]
    by_dwa, by_contrast = (catalog.labelling(terms) for terms in (settings, settings.model_copy(update={"dwa": None})))
    assert by_dwa is not None and (by_dwa.layer, by_dwa.way.method, by_dwa.way.encoding) == (10, "ot-filter", "joint")
    assert by_contrast is not None and (by_contrast.layer, by_contrast.way) == (7, Way("argmax", "separate"))
    assert catalog.labelling(Objectives(dwa=None)) is None
    recorded = settings.model_dump()
    assert catalog.recorded_labelling(recorded) == by_dwa
    del recorded["dwa"]["alignment_layer"]
    with pytest.raises(LookupError):  # no default in its place
        catalog.recorded_labelling(recorded)
    assert catalog.predicting_words(settings) == 1, "MLM and TLM share a call of their head"
    assert catalog.predicting_words(Objectives(tlm=Term(weight=0.5))) == 2
