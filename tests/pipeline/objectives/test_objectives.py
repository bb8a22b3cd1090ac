"""The terms of the loss equal their definitions, written out slowly here, and every parameter always has a gradient."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from pipeline.benchmark.step_count import Counting
from pipeline.data.batch import MicroBatch, StreamBatch, View
from pipeline.data.packing import Packed
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.data.views.masked_tokens import MaskedTokens, Pointers
from pipeline.model import attention
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.heads import MaskedLMHead, PointerHead
from pipeline.objectives.base import LabelTensors, Objective
from pipeline.objectives.catalog import ENTRIES
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.pretraining_model import MicroStepEncoder, PretrainingModel
from pipeline.objectives.word_alignment import PARTNER, WordAlignment
from pipeline.settings.added_words import AddedWords
from pipeline.settings.objectives import Objectives
from pipeline.settings.schema import Model
from sinkhorn_align import AlignmentSettings, align

VOCAB_SIZE = 64
MONO, PAIRS = View("mono", MaskedTokens.name), View("pairs", MaskedTokens.name)
MakeSequences = Callable[..., Sequences]
SOURCE, TARGET = [9, 1, 14, 30, 6, 2], [7, 3, 14, 11, 1, 22]


class FixedEncoder:
    """Returns hidden states that were drawn beforehand, and remembers what it was asked for."""

    def __init__(self, hidden_TD: Tensor) -> None:
        self.hidden_TD = hidden_TD
        self.asked: list[tuple[list[int], int | None]] = []

    def __call__(self, packed: Packed, layers: int | None = None) -> Tensor:
        self.asked.append((packed.ids_T.tolist(), layers))
        return self.hidden_TD

    def rows(self, packed: Packed, index_P: Tensor) -> Tensor:
        asked = (packed.ids_T.tolist(), None)
        self.asked += [] if asked in self.asked else [asked]
        return self.hidden_TD[index_P]


@pytest.fixture
def pairs(make_sequences: MakeSequences) -> StreamBatch:
    """Six ragged pairs, about every second token masked."""
    batch = collate(make_sequences(SOURCE, TARGET), 1, AddedWords(VOCAB_SIZE), [PAIRS])
    chosen_T = (batch.clean.ids_T > 3) & (torch.rand(len(batch.clean.ids_T)) < 0.5)
    return mask_only(batch, chosen_T.nonzero().flatten())


def mask_only(batch: StreamBatch, predicted_P: Tensor) -> StreamBatch:
    """The batch with other positions masked."""
    masked_ids_T = batch.clean.ids_T.clone()
    masked_ids_T[predicted_P] = VOCAB_SIZE - 1
    pointers = None if batch.spans is None else Pointers.of(batch.spans, predicted_P)
    packed = batch.clean.with_ids(masked_ids_T)
    batch.views[PAIRS] = MaskedTokens(packed, predicted_P, batch.clean.ids_T[predicted_P], pointers)
    return batch


def alone(pairs: StreamBatch) -> MicroBatch:
    """A micro-batch of these pairs and nothing else."""
    return MicroBatch({"pairs": pairs})


def sides(batch: StreamBatch) -> list[tuple[range, range]]:
    """Token indices of (source, target) of each pair."""
    assert batch.spans is not None
    starts_and_lengths = zip(
        batch.spans.source_start_B.tolist(),
        batch.spans.source_length_B.tolist(),
        batch.spans.target_start_B.tolist(),
        batch.spans.target_length_B.tolist(),
        strict=True,
    )
    return [(range(s, s + m), range(t, t + n)) for s, m, t, n in starts_and_lengths]


def link_at_random(batch: StreamBatch, share: float) -> LabelTensors:
    """Labels that give about this share of the tokens a partner on the other side."""
    partner_T = torch.full((batch.clean.tokens,), -1, dtype=torch.int32)
    for source, target in sides(batch):
        for own, other in ((source, target), (target, source)):
            for token in own:
                if torch.rand(()) < share:
                    partner_T[token] = other[int(torch.randint(len(other), ()))]
    return {PARTNER: partner_T}


def slow_pointer_loss(
    hidden_TD: Tensor, head: PointerHead, batch: StreamBatch, labels: LabelTensors
) -> tuple[Tensor, int, list[int]]:
    """The pointer network's loss, position by position: summed, agreement, tokens predicted on (source, target) sides."""
    loss, agreement, predicted = torch.zeros(()), 0, [0, 0]
    for position in batch.view(MaskedTokens).predicted_P.tolist():
        partner = int(labels[PARTNER][position])
        if partner < 0:
            continue
        for pair in sides(batch):
            for own in (0, 1):
                if position in pair[own]:
                    keys_LD = torch.stack([head.key(hidden_TD[token]) for token in pair[1 - own]])
                    scores_L = keys_LD @ head.query(hidden_TD[position]) / math.sqrt(hidden_TD.shape[1])
                    place = partner - pair[1 - own].start
                    loss = loss - scores_L.log_softmax(0)[place]
                    agreement += int(scores_L.argmax()) == place
                    predicted[own] += 1
    return loss, agreement, predicted


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_word_alignment_loss_equals_the_definition(pairs: StreamBatch, share: float) -> None:
    labels = link_at_random(pairs, share)
    hidden_TD = torch.randn(pairs.clean.tokens, 16, requires_grad=True)
    head = PointerHead(16, 0.02)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    objective = WordAlignment("dwa", 2, AlignmentSettings())

    expected, agreement, predicted = slow_pointer_loss(hidden_TD, head, pairs, labels)
    result = objective.loss(FixedEncoder(hidden_TD), {"word_alignment": head}, alone(pairs), labels)

    assert min(predicted) > 0, "both directions take part"
    torch.testing.assert_close(result.total, expected, rtol=1e-5, atol=1e-4)
    assert int(result.metrics["agreement"]) == agreement
    assert int(objective.count(alone(pairs), labels)) == sum(predicted)
    variables = [hidden_TD, *head.parameters()]
    for ours, slow in zip(
        torch.autograd.grad(result.total, variables), torch.autograd.grad(expected, variables), strict=True
    ):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-4)


def test_word_alignment_encodes_the_masked_pairs_through_all_layers(pairs: StreamBatch) -> None:
    encode = FixedEncoder(torch.randn(pairs.clean.tokens, 16))
    objective = WordAlignment("dwa", 2, AlignmentSettings())
    labels = link_at_random(pairs, 1.0)
    objective.loss(encode, {"word_alignment": PointerHead(16, 0.02)}, alone(pairs), labels)
    assert encode.asked == [(pairs.view(MaskedTokens).packed.ids_T.tolist(), None)]


def test_labels_are_aligned_on_the_unmasked_pairs_at_the_alignment_layer(pairs: StreamBatch) -> None:
    encode = FixedEncoder(torch.randn(pairs.clean.tokens, 16))
    settings = AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1)
    labels, metrics = WordAlignment("dwa", 2, settings).label(encode, {}, alone(pairs))
    assert encode.asked == [(pairs.clean.ids_T.tolist(), 2)]
    assert pairs.spans is not None
    expected = align(encode.hidden_TD, pairs.spans, settings)
    assert torch.equal(labels[PARTNER], expected.partner_T)
    assert int(metrics["pairs"]) == 6 and int(metrics["unalignable_pairs"]) == 0
    assert int(metrics["links"]) == int((expected.links_RT >= 0).sum()) > 0


def test_micro_batches_labelled_together_have_the_labels_of_each_alone(
    sizes: EncoderConfig, make_sequences: MakeSequences
) -> None:
    objectives = [MaskedLM("tlm", "pairs"), WordAlignment("dwa", 1, AlignmentSettings())]
    model = PretrainingModel(Encoder(sizes), objectives).double().eval()
    parts = [(SOURCE[:2], TARGET[:2]), (SOURCE[2:], TARGET[2:]), (SOURCE, TARGET)]
    batches = [alone(collate(make_sequences(*part), 1, AddedWords(sizes.vocab_size), [PAIRS])) for part in parts]
    passes: list[int] = []
    model.encoder.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        together = model("label", batches)
        assert len(passes) == 1
        for number, batch in enumerate(batches):
            found = model("label", batch)
            assert torch.equal(together[str(number)]["dwa"]["labels"][PARTNER], found["dwa"]["labels"][PARTNER])
            assert (found["dwa"]["labels"][PARTNER] >= 0).any()
            for name, value in found["dwa"]["metrics"].items():
                assert torch.equal(together[str(number)]["dwa"]["metrics"][name], value)


def test_without_filtering_every_masked_token_has_a_partner_and_cells_are_counted(pairs: StreamBatch) -> None:
    encode = FixedEncoder(torch.randn(pairs.clean.tokens, 16))
    objective = WordAlignment("dwa", 2, AlignmentSettings(filter_rounds=0))
    labels, metrics = objective.label(encode, {}, alone(pairs))
    assert int(objective.count(alone(pairs), labels)) == len(pairs.view(MaskedTokens).predicted_P) > 0
    assert pairs.spans is not None
    cells = {frozenset(ends) for ends in enumerate(labels[PARTNER].tolist()) if ends[1] >= 0}
    assert int(metrics["links"]) == len(cells)


def test_pairs_that_cannot_be_aligned_are_counted_and_have_no_loss(pairs: StreamBatch) -> None:
    encode = FixedEncoder(torch.full((pairs.clean.tokens, 16), float("nan")))
    objective = WordAlignment("dwa", 2, AlignmentSettings())
    labels, metrics = objective.label(encode, {}, alone(pairs))
    assert int(metrics["unalignable_pairs"]) == 6 and int(metrics["links"]) == 0
    assert int(objective.count(alone(pairs), labels)) == 0


@pytest.mark.parametrize("nothing", ["no links", "no masks"])
def test_without_targets_word_alignment_is_zero_with_zero_gradients(pairs: StreamBatch, nothing: str) -> None:
    labels = link_at_random(pairs, 0.0 if nothing == "no links" else 1.0)
    if nothing == "no masks":
        mask_only(pairs, torch.zeros(0, dtype=torch.long))
    hidden_TD = torch.randn(pairs.clean.tokens, 16, requires_grad=True)
    head = PointerHead(16, 0.02)
    objective = WordAlignment("dwa", 2, AlignmentSettings())
    result = objective.loss(FixedEncoder(hidden_TD), {"word_alignment": head}, alone(pairs), labels)
    result.total.backward()
    assert float(result.total.detach()) == 0 and int(objective.count(alone(pairs), labels)) == 0
    for variable in (hidden_TD, *head.parameters()):
        assert variable.grad is not None and not variable.grad.any()


def test_losses_of_a_micro_batch_that_was_not_labelled_are_refused(pairs: StreamBatch, sizes: EncoderConfig) -> None:
    with pytest.raises(AssertionError, match="not been labelled"):
        PretrainingModel(Encoder(sizes), all_objectives())("losses", alone(pairs))


def test_masked_lm_loss_is_the_summed_cross_entropy_of_the_masked_tokens(pairs: StreamBatch) -> None:
    hidden_TD = torch.randn(pairs.clean.tokens, 16)
    word = nn.Embedding(VOCAB_SIZE, 16)
    head = MaskedLMHead(word, 1e-5, 0.02)
    nn.init.normal_(head.bias)
    encode = FixedEncoder(hidden_TD)
    objective = MaskedLM("tlm", "pairs")
    result = objective.loss(encode, {"masked_lm": head}, alone(pairs), {})

    expected, correct = torch.zeros(()), 0
    masked = pairs.view(MaskedTokens)
    for position, target in zip(masked.predicted_P.tolist(), masked.target_ids_P.tolist(), strict=True):
        logits_V = head.norm(F.gelu(head.dense(hidden_TD[position]))) @ word.weight.T + head.bias
        expected = expected - logits_V.log_softmax(0)[target]
        correct += int(logits_V.argmax()) == target
    torch.testing.assert_close(result.total, expected, rtol=1e-5, atol=1e-4)
    assert int(result.metrics["correct"]) == correct
    assert int(objective.count(alone(pairs), {})) == len(pairs.view(MaskedTokens).predicted_P)
    assert encode.asked == [(pairs.view(MaskedTokens).packed.ids_T.tolist(), None)]


@pytest.mark.parametrize("names", ["mlm tlm", "tlm mlm", "tlm"])
def test_masked_lms_of_one_factor_share_a_call_of_the_head_and_lose_what_each_does(
    pairs: StreamBatch, make_sequences: MakeSequences, sizes: EncoderConfig, names: str
) -> None:
    streams = {"mlm": "mono", "tlm": "pairs"}
    word_alignment = WordAlignment("dwa", 2, AlignmentSettings())
    apart, together = (
        PretrainingModel(
            Encoder(sizes), [*(MaskedLM(name, streams[name], factor) for name in names.split()), word_alignment]
        ).double()
        for factor in (None, 1.0)
    )
    together.load_state_dict(apart.state_dict())
    mono = collate(make_sequences([20, 5, 33]), 1, AddedWords(VOCAB_SIZE), [MONO])
    batch = MicroBatch({"pairs": pairs, **({"mono": mono} if "mlm" in names else {})})
    labels = {"mlm": {}, "tlm": {}, "dwa": link_at_random(pairs, 1.0)}
    calls: dict[PretrainingModel, int] = {apart: 0, together: 0}
    found = []
    for model in calls:
        model.heads["masked_lm"].register_forward_hook(lambda *_, model=model: calls.update({model: calls[model] + 1}))
        terms = model("losses", batch, labels)
        assert list(terms) == [*names.split(), "dwa"]
        torch.stack([0.5 * term["loss"] for term in terms.values()]).sum().backward()
        found.append(
            ({name: [value.detach() for value in term.values()] for name, term in terms.items()}, gradients_of(model))
        )
    assert list(calls.values()) == [len(names.split()), 1]
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


def gradients_of(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_losses_that_are_weighed_alike_at_every_step_are_taken_together() -> None:
    for given, alike in (
        ({}, True),
        ({"mlm": {"weight": 0.5}, "tlm": {"weight": 0.5}}, True),
        ({"mlm": {"weight": 0.5}}, False),
        ({"tlm": {"warmup_steps": 3}}, False),
    ):
        terms = Objectives.model_validate({"mlm": {}, "tlm": {}, "dwa": None, **given})
        mlm, tlm = (ENTRIES[name].build(name, getattr(terms, name), Model()) for name in ("mlm", "tlm"))
        assert (mlm.together == tlm.together) == alike and mlm.together is not None


def test_rows_that_two_objectives_read_are_gathered_once(pairs: StreamBatch, sizes: EncoderConfig) -> None:
    masked = pairs.view(MaskedTokens)
    encode = MicroStepEncoder(Encoder(sizes))
    with Counting() as counting:
        rows_PD = encode.rows(masked.packed, masked.predicted_P)
        again_PD = encode.rows(masked.packed, masked.predicted_P)
    assert counting.work.counts["index"] == 1 and again_PD is rows_PD
    assert torch.equal(rows_PD, encode(masked.packed)[masked.predicted_P])


def test_half_precision_losses_are_summed_in_fp32(pairs: StreamBatch) -> None:
    labels = link_at_random(pairs, 1.0)
    hidden_TD = torch.randn(pairs.clean.tokens, 16).bfloat16()
    heads = nn.ModuleDict(
        {"masked_lm": MaskedLMHead(nn.Embedding(VOCAB_SIZE, 16), 1e-5, 0.02), "word_alignment": PointerHead(16, 0.02)}
    ).bfloat16()
    for objective in (MaskedLM("tlm", "pairs"), WordAlignment("dwa", 2, AlignmentSettings())):
        assert objective.loss(FixedEncoder(hidden_TD), heads, alone(pairs), labels).total.dtype == torch.float32


def all_objectives() -> list[Objective]:
    return [MaskedLM("mlm", "mono"), MaskedLM("tlm", "pairs"), WordAlignment("dwa", 2, AlignmentSettings())]


@pytest.mark.parametrize("links", [0.0, 1.0])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("names", ["mlm tlm dwa", "mlm", "tlm", "dwa"])
def test_every_parameter_gets_a_gradient(
    pairs: StreamBatch, make_sequences: MakeSequences, sizes: EncoderConfig, names: str, masks: bool, links: float
) -> None:
    objectives = [objective for objective in all_objectives() if objective.name in names.split()]
    model = PretrainingModel(Encoder(sizes), objectives)
    mono = collate(make_sequences([20, 5, 33]), 1, AddedWords(VOCAB_SIZE), [MONO])
    labels = {"mlm": {}, "tlm": {}, "dwa": link_at_random(pairs, links)}
    if not masks:
        mono, pairs = (mask_only(batch, torch.zeros(0, dtype=torch.long)) for batch in (mono, pairs))
    streams = {stream for objective in objectives for stream in objective.streams}
    batch = MicroBatch({name: stream for name, stream in (("mono", mono), ("pairs", pairs)) if name in streams})

    terms = model("losses", batch, labels)
    assert list(terms) == names.split()
    torch.stack([term["loss"] for term in terms.values()]).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), name
    if masks and links:
        assert all(parameter.grad.any() for parameter in model.heads.parameters() if parameter.dim() == 2)


def test_objectives_that_name_the_same_head_share_it(sizes: EncoderConfig) -> None:
    model = PretrainingModel(Encoder(sizes), all_objectives())
    assert sorted(model.heads) == ["masked_lm", "word_alignment"]
    assert model.heads["masked_lm"].weight is model.encoder.word.weight


def test_labelling_returns_links_and_reports_them_by_objective(
    pairs: StreamBatch, make_sequences: MakeSequences, sizes: EncoderConfig
) -> None:
    model = PretrainingModel(Encoder(sizes), all_objectives()).eval()
    mono = collate(make_sequences([9]), 1, AddedWords(VOCAB_SIZE), [MONO])
    with torch.no_grad():
        found = model("label", MicroBatch({"mono": mono, "pairs": pairs}))
        hidden_TD = model.encoder(pairs.clean, 2)
    assert pairs.spans is not None
    expected = align(hidden_TD, pairs.spans, AlignmentSettings())
    assert torch.equal(found["dwa"]["labels"][PARTNER], expected.partner_T)
    assert found["mlm"] == found["tlm"] == {"labels": {}, "metrics": {}}
    assert set(found["dwa"]["metrics"]) == {"links", "pairs", "unalignable_pairs"}


def test_a_micro_batch_without_a_stream_leaves_its_objectives_out(
    make_sequences: MakeSequences, sizes: EncoderConfig
) -> None:
    model = PretrainingModel(Encoder(sizes), all_objectives())
    batch = MicroBatch({"mono": collate(make_sequences([9, 4]), 1, AddedWords(VOCAB_SIZE), [MONO])})
    assert list(model("label", batch)) == list(model("losses", batch, {"mlm": {}})) == ["mlm"]


def test_reports_are_means_and_survive_a_count_of_zero() -> None:
    sums = {"loss": 6.0, "agreement": 3.0, "links": 20.0, "pairs": 5.0, "unalignable_pairs": 1.0}
    objective = WordAlignment("dwa", 2, AlignmentSettings())
    expected = {"loss": 1.5, "agreement": 0.75, "links_per_pair": 4.0, "unalignable_pairs": 1.0}
    assert objective.report(sums, 4) == expected
    assert objective.report(dict.fromkeys(sums, 0.0), 0) == dict.fromkeys(expected, 0.0)
    assert MaskedLM("mlm", "mono").report({"loss": 6.0, "correct": 1.0}, 4) == {"loss": 1.5, "accuracy": 0.25}


def test_a_step_never_asks_the_device_for_a_value(
    sizes: EncoderConfig, make_sequences: MakeSequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors have shapes and no values: whatever would make the host wait for a GPU raises on them."""
    monkeypatch.setattr(attention, "takes_products", lambda *_: False)  # for CPUs alone, and looks at its sums
    mono = collate(make_sequences([30, 40, 9]), 1, AddedWords(sizes.vocab_size), [MONO])
    pairs = collate(make_sequences(SOURCE, TARGET), 1, AddedWords(sizes.vocab_size), [PAIRS])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        objectives = [MaskedLM("mlm", "mono"), MaskedLM("tlm", "pairs"), WordAlignment("dwa", 1, AlignmentSettings())]
        model = PretrainingModel(Encoder(sizes), objectives)
        batch = MicroBatch({"mono": mono, "pairs": pairs}).map(mode.from_tensor)
        with torch.no_grad():
            labels = {name: found["labels"] for name, found in model("label", batch).items()}
        terms = model("losses", batch, labels)
        for objective in objectives:
            objective.count(batch, labels[objective.name])
        torch.stack([term["loss"] for term in terms.values()]).sum().backward()
        with pytest.raises(DataDependentOutputException):
            terms["dwa"]["loss"].item()
