"""What labels the tokens of token contrast: given links, several layers, optimal transport; and DWA's sides encoded apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.packing import Packed
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.data.views.given_links import GivenLinks
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.data.views.sides import Sides, SidesToHide
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.flops import encoder_forward_flops
from pipeline.objectives import catalog, token_contrast, word_alignment
from pipeline.objectives.pretraining_model import MicroStepEncoder, PretrainingModel
from pipeline.objectives.token_contrast import PARTNER, TokenContrast
from pipeline.objectives.word_alignment import PARTNER as DWA_PARTNER
from pipeline.objectives.word_alignment import WordAlignment
from pipeline.settings.added_words import AddedWords
from pipeline.settings.align_options import Way
from pipeline.settings.objectives import Objectives, TokenContrastTerm, WordAlignmentTerm
from pipeline.settings.schema import Model
from sinkhorn_align import AlignmentSettings, align
from sinkhorn_align.simalign import ARGMAX

VOCAB_SIZE, LAYERS, LAYER, TEMPERATURE = 64, 3, 2, 0.05
SOURCE, TARGET = [9, 1, 14, 30, 6, 2], [7, 3, 14, 11, 1, 22]
MakeSequences = Callable[..., Sequences]
KINDS = (Sides, SidesToHide, GivenLinks, MaskedTokens)


@pytest.fixture
def links_K3() -> np.ndarray:  # noqa: N802
    """Random links of the six pairs, of many tokens with several; the pair at 1 has none."""
    draw = np.random.default_rng(4)
    found = [np.argwhere(draw.random((m, n)) < 0.15) for m, n in zip(SOURCE, TARGET, strict=True)]
    found[1] = found[1][:0]
    return np.concatenate([np.insert(links, 0, pair, axis=1) for pair, links in enumerate(found)])


@pytest.fixture
def batch(make_sequences: MakeSequences, links_K3: np.ndarray) -> MicroBatch:
    sequences = replace(make_sequences(SOURCE, TARGET), links_K3=links_K3)
    views = [View("pairs", kind.name) for kind in KINDS]
    return MicroBatch({"pairs": collate(sequences, 1, AddedWords(VOCAB_SIZE), views)})


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(3)
    sizes = EncoderConfig(VOCAB_SIZE, LAYERS, 16, positions=66, heads=2, feed_forward=32, init_std=0.3)
    return Encoder(sizes).eval()


def built(**settings: object) -> TokenContrast:
    term = TokenContrastTerm.model_validate({"layer": LAYER, **settings})
    objective = catalog.ENTRIES["token_contrast"].build("token_contrast", term, Model())
    assert isinstance(objective, TokenContrast)
    return objective


def slow_links_loss(hidden_TD: Tensor, batch: MicroBatch, links_K3: np.ndarray) -> tuple[Tensor, float, int]:
    """−log of the summed probability of a token's partners, token by token; that probability; tokens with partners."""
    sides = batch["pairs"].view(Sides)
    start, length = sides.start_C.tolist(), sides.length_C.tolist()
    loss, probability, count = torch.zeros(()), 0.0, 0
    for pair in range(len(SOURCE)):
        for own in (0, 1):
            for token in range(length[2 * pair + own]):
                partners = sorted(row[2 - own] for row in links_K3.tolist() if row[0] == pair and row[1 + own] == token)
                if partners:
                    first = start[2 * pair + 1 - own]
                    others_LD = hidden_TD[first : first + length[2 * pair + 1 - own]]
                    cosine_L = torch.cosine_similarity(hidden_TD[start[2 * pair + own] + token][None], others_LD)
                    share = (cosine_L / TEMPERATURE).softmax(0)[partners].sum()
                    loss, probability, count = loss - share.log(), probability + float(share.detach()), count + 1
    return loss, probability, count


@pytest.mark.parametrize("mask_rate", [0.0, 0.3])
def test_given_links_teach_the_sum_of_the_partners_probabilities(
    mask_rate: float, batch: MicroBatch, links_K3: np.ndarray
) -> None:
    objective = built(labels="links", mask_rate=mask_rate)
    sides = batch["pairs"].view(Sides)
    hidden_TD = torch.randn(sides.packed.tokens, 16, requires_grad=True)
    labels, metrics = objective.label(lambda *_: pytest.fail("nothing is encoded to label"), {}, batch)
    assert labels == {} and not objective.asks("label", batch)
    found = objective.loss(lambda packed, layers=None: hidden_TD, {}, batch, labels)
    expected, probability, count = slow_links_loss(hidden_TD, batch, links_K3)
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-4)
    assert float(found.metrics["probability"]) == pytest.approx(probability, rel=1e-4)
    assert int(objective.count(batch, labels)) == count
    assert int(metrics["links"]) == len(links_K3) and int(metrics["pairs"]) == len(SOURCE)
    gradients = [torch.autograd.grad(total, hidden_TD)[0] for total in (found.total, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert gradients[0].isfinite().all()


def test_links_of_one_partner_each_are_the_loss_of_labels_that_say_the_same(
    make_sequences: MakeSequences, encoder: Encoder
) -> None:
    sequences = replace(make_sequences(SOURCE, TARGET), links_K3=np.empty((0, 3), dtype=np.int64))
    views = [View("pairs", kind.name) for kind in (Sides, GivenLinks)]
    batch = MicroBatch({"pairs": collate(sequences, 1, AddedWords(VOCAB_SIZE), views)})
    sides, encode = batch["pairs"].view(Sides), MicroStepEncoder(encoder)
    own = built()
    labels = own.label(encode, {}, batch)
    partner_T, start = labels.tensors[PARTNER].tolist(), sides.start_C.tolist()
    rows = [
        (pair, token, partner_T[start[2 * pair] + token] - start[2 * pair + 1])
        for pair, length in enumerate(SOURCE)
        for token in range(length)
        if partner_T[start[2 * pair] + token] >= 0
    ]
    given = MicroBatch(
        {"pairs": collate(replace(sequences, links_K3=np.array(rows)), 1, AddedWords(VOCAB_SIZE), views)}
    )
    by_links = built(labels="links")
    pairs = [(own, batch, labels.tensors), (by_links, given, by_links.label(encode, {}, given).tensors)]
    losses = [which.loss(MicroStepEncoder(encoder), {}, which_batch, tensors) for which, which_batch, tensors in pairs]
    assert losses[0].total > 1
    torch.testing.assert_close(losses[0].total, losses[1].total, rtol=1e-5, atol=1e-5)
    counts = [int(which.count(which_batch, tensors)) for which, which_batch, tensors in pairs]
    assert counts[0] == counts[1] == 2 * len(rows) > 10


def test_pairs_without_any_link_teach_nothing_and_harm_nothing(make_sequences: MakeSequences, encoder: Encoder) -> None:
    sequences = replace(make_sequences([3, 4], [2, 0]), links_K3=np.empty((0, 3), dtype=np.int64))
    views = [View("pairs", kind.name) for kind in (Sides, GivenLinks)]
    batch = MicroBatch({"pairs": collate(sequences, 1, AddedWords(VOCAB_SIZE), views)})
    model = PretrainingModel(encoder, [built(labels="links")])
    loss = model("losses", batch, {"token_contrast": {}})["token_contrast"]["loss"]
    loss.backward()
    assert float(loss.detach()) == 0 and all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_layers_that_must_agree_label_what_each_of_them_labels(batch: MicroBatch, encoder: Encoder) -> None:
    objective = built(labels="layers", label_layers=[1, 2, 3])
    assert [asked.layers for asked in objective.asks("label", batch)] == [1, 2, 3]
    passes: list[int] = []
    encoder.register_forward_hook(lambda *_: passes.append(1))
    labels, metrics = objective.label(MicroStepEncoder(encoder, objective.asks("label", batch)), {}, batch)
    assert len(passes) == 1
    sides = batch["pairs"].view(Sides)
    each = [
        align(encoder.hidden_states(sides.packed, 3)[layer], sides.spans, ARGMAX).partner_T.tolist()
        for layer in (1, 2, 3)
    ]
    expected = [found[0] if found[0] == found[1] == found[2] else -1 for found in zip(*each, strict=True)]
    assert labels[PARTNER].tolist() == expected
    linked = sum(partner >= 0 for partner in expected)
    assert 0 < linked < min(sum(partner >= 0 for partner in of_layer) for of_layer in each)
    assert int(metrics["links"]) * 2 == linked == int(objective.count(batch, labels))


def test_optimal_transport_labels_as_dwa_does_in_sides_apart(batch: MicroBatch, encoder: Encoder) -> None:
    objective = built(labels="ot", label_layer=1)
    labels, metrics = objective.label(MicroStepEncoder(encoder), {}, batch)
    sides = batch["pairs"].view(Sides)
    expected = align(encoder.hidden_states(sides.packed, 1)[1], sides.spans, AlignmentSettings())
    assert torch.equal(labels[PARTNER], expected.partner_T) and int(metrics["links"]) == int(expected.count()) > 0
    assert not torch.equal(
        labels[PARTNER], built(label_layer=1).label(MicroStepEncoder(encoder), {}, batch).tensors[PARTNER]
    )


def test_dwa_labels_from_sides_apart_lie_where_the_tokens_lie_in_pairs(batch: MicroBatch, encoder: Encoder) -> None:
    objective = WordAlignment("dwa", 2, AlignmentSettings(), "separate")
    assert objective.reads == (View("pairs", MaskedTokens.name), View("pairs", Sides.name))
    asked = objective.asks("label", batch)
    assert [(one.packed, one.layers) for one in asked] == [(batch["pairs"].view(Sides).packed, 2)]
    labels, metrics = objective.label(MicroStepEncoder(encoder, asked), {}, batch)
    sides, pairs = batch["pairs"].view(Sides), batch["pairs"].spans
    found = align(encoder.hidden_states(sides.packed, 2)[2], sides.spans, AlignmentSettings())
    assert pairs is not None and int(metrics["links"]) == int(found.count()) > 0
    expected = [-1] * batch["pairs"].clean.tokens
    place = {}  # of each token of a side, in pairs
    for side, in_pair in (
        (sides.spans.source_start_B, (pairs.source_start_B, pairs.source_length_B)),
        (sides.spans.target_start_B, (pairs.target_start_B, pairs.target_length_B)),
    ):
        for start, there, length in zip(side.tolist(), *(vector.tolist() for vector in in_pair), strict=True):
            place |= {start + token: there + token for token in range(length)}
    for token, partner in enumerate(found.partner_T.tolist()):
        if partner >= 0:
            expected[place[token]] = place[partner]
    assert labels[DWA_PARTNER].tolist() == expected and labels[DWA_PARTNER].dtype == found.partner_T.dtype
    assert int((labels[DWA_PARTNER] >= 0).sum()) == int((found.partner_T >= 0).sum()) > 10
    together = objective.label_all(MicroStepEncoder(encoder), {}, [batch, batch])
    assert all(torch.equal(one.tensors[DWA_PARTNER], labels[DWA_PARTNER]) for one in together)


def test_the_masks_and_the_loss_of_dwa_are_as_before_whatever_labels_it(batch: MicroBatch, encoder: Encoder) -> None:
    joint, apart = (WordAlignment("dwa", 2, AlignmentSettings(), encoding) for encoding in ("joint", "separate"))
    model = PretrainingModel(encoder, [joint])
    head = {"word_alignment": model.heads["word_alignment"]}
    labels = joint.label(MicroStepEncoder(encoder), {}, batch).tensors
    losses = [which.loss(MicroStepEncoder(encoder), head, batch, labels).total for which in (joint, apart)]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"labels": "layers"}, r"label_layers = \[\]: labels = layers needs two or more"),
        ({"labels": "layers", "label_layers": [7, 7]}, r"label_layers = \[7, 7\]: labels = layers needs two or more"),
        ({"label_layers": [6, 7]}, r"label_layers = \[6, 7\]: .* and labels = self none"),
        ({"labels": "links", "label_layer": 6}, "label_layer = 6: labels = links does not read it; make it null"),
        ({"labels": "layers", "label_layers": [6, 7], "label_layer": 6}, "label_layer = 6: labels = layers does not"),
        ({"labels": "gold"}, "labels"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TokenContrastTerm.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "encoded"),
    [
        ({"labels": "links"}, None),
        ({"labels": "layers", "label_layers": [1, 3]}, 3),
        ({"labels": "ot", "label_layer": 1}, 1),
    ],
)
def test_what_is_planned_is_what_is_counted(
    settings: dict[str, object], encoded: int | None, batch: MicroBatch, encoder: Encoder
) -> None:
    term = TokenContrastTerm.model_validate({"layer": LAYER, **settings})
    model = PretrainingModel(encoder, [built(**settings)])
    lengths = batch["pairs"].view(Sides).packed.sequence_lengths

    class Sample:
        lengths_S, tokens, predicted, sides_C = lengths, int(lengths.sum()), 0, lengths - 2

    terms = Objectives(mlm=None, tlm=None, dwa=None, token_contrast=term)
    planned = catalog.flops(terms, "pairs", encoder.config, LAYERS, Sample())
    assert planned == pytest.approx(model.flops(batch))
    labelling = encoder_forward_flops(encoder.config, lengths, encoded) if encoded else 0.0
    of_loss = 3 * encoder_forward_flops(encoder.config, lengths, LAYER) + 6.0 * 16 * float(np.dot(SOURCE, TARGET))
    assert planned == pytest.approx(labelling + of_loss)
    assert catalog.reads_links(terms) == (settings["labels"] == "links")
    assert catalog.costs(terms, "pairs", encoder.config, 1.0, 1).labelled_layers == (encoded or 0)
    found = catalog.labelling(terms)
    assert found is not None and (found.layer, found.way) == (LAYER, Way("argmax", "separate")), "the one that learns"


def test_a_dwa_that_labels_apart_aligns_apart_afterwards_and_is_planned_so(batch: MicroBatch, encoder: Encoder) -> None:
    term = WordAlignmentTerm(alignment_layer=2, label_encoding="separate")
    terms = Objectives(mlm=None, tlm=None, dwa=term)
    found = catalog.labelling(terms)
    assert found is not None and found.way == Way(encoding="separate", settings=AlignmentSettings())
    model = PretrainingModel(encoder, [WordAlignment("dwa", 2, AlignmentSettings(), "separate")])
    stream = batch["pairs"]
    sides = stream.view(Sides).packed.sequence_lengths

    class Sample:
        lengths_S, tokens, sides_C = stream.clean.sequence_lengths, stream.clean.tokens, sides - 2
        predicted = len(stream.view(MaskedTokens).predicted_P)

    planned = catalog.flops(terms, "pairs", encoder.config, LAYERS, Sample())
    assert planned == pytest.approx(model.flops(batch))
    assert catalog.costs(terms, "pairs", encoder.config, 1.0, 1).labelled_layers == 2


def test_records_of_versions_that_knew_one_way_to_label_are_read_as_that(encoder: Encoder) -> None:
    recorded = Objectives(mlm=None, tlm=None).model_dump()
    del recorded["dwa"]["label_encoding"]
    found = catalog.recorded_labelling(recorded)
    assert found is not None and found.way.encoding == "joint"
    recorded = Objectives(mlm=None, tlm=None, dwa=None, token_contrast=TokenContrastTerm()).model_dump()
    del recorded["token_contrast"]["labels"], recorded["token_contrast"]["label_layers"]
    found = catalog.recorded_labelling(recorded)
    assert found is not None and (found.layer, found.way) == (7, Way("argmax", "separate"))


def test_layers_that_must_agree_are_of_the_model() -> None:
    term = TokenContrastTerm(layer=3, labels="layers", label_layers=[2, 9])
    with pytest.raises(ValueError, match=r"objectives\.token_contrast\.label_layers = 9: the model has 6 layers"):
        catalog.check_layers(Objectives(mlm=None, tlm=None, dwa=None, token_contrast=term), 6)


def test_packed_is_only_encoded_up_to_the_layers_that_are_asked_for(batch: MicroBatch) -> None:
    asked: list[tuple[Packed, int | None]] = []

    def encode(packed: Packed, layers: int | None = None) -> Tensor:
        asked.append((packed, layers))
        return torch.randn(packed.tokens, 16)

    built(labels="layers", label_layers=[1, 3]).label(encode, {}, batch)
    assert asked == [(batch["pairs"].view(Sides).packed, layer) for layer in (1, 3)]


@pytest.mark.parametrize(
    ("objectives", "kernels"),
    [
        (Objectives(), ["clip"]),
        (Objectives(dwa=None, token_contrast=TokenContrastTerm(layer=2)), ["argmax"]),
        (Objectives(dwa=None, token_contrast=TokenContrastTerm(layer=2, labels="ot")), ["clip"]),
        (Objectives(dwa=None, token_contrast=TokenContrastTerm(layer=2, labels="links")), []),
    ],
    ids=str,
)
def test_what_labels_by_the_kernel_has_it_compiled_for_its_settings(
    objectives: Objectives, kernels: list[str], sizes: EncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for module in (word_alignment, token_contrast):
        monkeypatch.setattr(module, "warm_up", lambda *words: asked.append(words))
    device = torch.device("cuda")
    for name, term in objectives.active().items():
        catalog.ENTRIES[name].build(name, term, Model()).compile_kernels(sizes, torch.float16, device)
    settings = {"clip": AlignmentSettings(), "argmax": ARGMAX}
    assert asked == [(sizes.hidden, torch.float16, device, settings[name]) for name in kernels]
