"""Token contrast equals its definition, written out slowly here, and its partners are the aligner's `argmax` links."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.tokenizers.template import XLM_R
from pipeline.align.word_alignment import WordAligner
from pipeline.data.batch import MicroBatch, View
from pipeline.data.packing import Packed, pack
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.data.views.sides import Sides, SidesToHide
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.flops import encoder_forward_flops
from pipeline.objectives import catalog
from pipeline.objectives.base import LabelTensors
from pipeline.objectives.pretraining_model import MicroStepEncoder, PretrainingModel
from pipeline.objectives.token_contrast import PARTNER, TokenContrast
from pipeline.settings.added_words import AddedWords
from pipeline.settings.align_options import Way
from pipeline.settings.objectives import Objectives, TokenContrastTerm

VOCAB_SIZE, LAYERS, LAYER, TEMPERATURE = 64, 3, 2, 0.05
SOURCE, TARGET = [9, 1, 14, 30, 6, 2], [7, 3, 14, 11, 1, 22]
MakeSequences = Callable[..., Sequences]


@pytest.fixture
def batch(make_sequences: MakeSequences) -> MicroBatch:
    """Six ragged pairs."""
    return MicroBatch(
        {"pairs": collate(make_sequences(SOURCE, TARGET), 1, AddedWords(VOCAB_SIZE), [View("pairs", Sides.name)])}
    )


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(3)
    sizes = EncoderConfig(VOCAB_SIZE, LAYERS, 16, positions=66, heads=2, feed_forward=32, init_std=0.3)
    return Encoder(sizes).eval()


def objective(label_layer: int = LAYER, layer: int = LAYER) -> TokenContrast:
    return TokenContrast("token_contrast", [label_layer], layer, TEMPERATURE)


def cut(batch: MicroBatch) -> list[list[range]]:
    """Token indices of (source, target) of each pair in the packed sides."""
    starts = np.cumsum([0] + [n + 2 for pair in zip(SOURCE, TARGET, strict=True) for n in pair])[:-1] + 1
    lengths = np.array([SOURCE, TARGET]).T.reshape(-1)
    sides = [range(start, start + length) for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return [sides[at : at + 2] for at in range(0, len(sides), 2)]


def test_the_sides_are_the_two_sentences_as_sequences_of_their_own(make_sequences: MakeSequences) -> None:
    sequences = make_sequences(SOURCE, TARGET)
    sides = collate(sequences, 1, AddedWords(VOCAB_SIZE), [View("pairs", Sides.name)]).view(Sides)
    expected = []
    for ids, source in zip(sequences.ids, SOURCE, strict=True):
        expected += [ids[: source + 2].tolist(), [0, *ids[source + 2 :].tolist()]]
    offsets = sides.packed.offsets_S1
    assert [sides.packed.ids_T[a:b].tolist() for a, b in pairwise(offsets.tolist())] == expected
    assert all(side[0] == 0 and side[-1] == 2 for side in expected)
    alone = pack([np.array(side) for side in expected])
    assert torch.equal(sides.packed.positions_T, alone.positions_T) and torch.equal(sides.packed.place_T, alone.place_T)
    assert sides.spans.source_length_B.tolist() == SOURCE and sides.spans.target_length_B.tolist() == TARGET


def link_at_random(batch: MicroBatch, share: float) -> LabelTensors:
    """Labels that give about this share of the tokens a partner on the other side."""
    torch.manual_seed(5)
    partner_T = torch.full((batch["pairs"].view(Sides).packed.tokens,), -1, dtype=torch.int32)
    for sides in cut(batch):
        for own, other in (sides, sides[::-1]):
            for token in own:
                if torch.rand(()) < share:
                    partner_T[token] = other[int(torch.randint(len(other), ()))]
    return {PARTNER: partner_T}


def slow_loss(hidden_TD: Tensor, batch: MicroBatch, labels: LabelTensors) -> tuple[Tensor, float, int]:
    """The contrast, token by token: summed loss, summed probability of partners, tokens with a partner."""
    loss, probability, count = torch.zeros(()), 0.0, 0
    for sides in cut(batch):
        for own, other in (sides, sides[::-1]):
            for token in own:
                partner = int(labels[PARTNER][token])
                if partner >= 0:
                    cosines = [torch.cosine_similarity(hidden_TD[token], hidden_TD[o], dim=0) for o in other]
                    log_p_L = (torch.stack(cosines) / TEMPERATURE).log_softmax(0)
                    loss = loss - log_p_L[partner - other.start]
                    probability += float(log_p_L.detach()[partner - other.start].exp())
                    count += 1
    return loss, probability, count


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_the_loss_equals_the_definition(batch: MicroBatch, share: float) -> None:
    labels = link_at_random(batch, share)
    hidden_TD = torch.randn(batch["pairs"].view(Sides).packed.tokens, 16, requires_grad=True)

    def encode(packed: Packed, layers: int | None = None) -> Tensor:
        assert layers == LAYER and packed is batch["pairs"].view(Sides).packed
        return hidden_TD

    expected, probability, count = slow_loss(hidden_TD, batch, labels)
    found = objective().loss(encode, {}, batch, labels)
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-4)
    assert float(found.metrics["probability"]) == pytest.approx(probability, rel=1e-4)
    assert int(objective().count(batch, labels)) == count
    gradients = [torch.autograd.grad(total, hidden_TD)[0] for total in (found.total, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_hidden_tokens_are_a_function_of_their_sample_alone_and_no_special_ones(make_sequences: MakeSequences) -> None:
    sequences = make_sequences(SOURCE, TARGET)
    whole = collate(sequences, 1, AddedWords(VOCAB_SIZE), [View("pairs", SidesToHide.name)]).view(SidesToHide)
    plain = collate(sequences, 1, AddedWords(VOCAB_SIZE), [View("pairs", Sides.name)]).view(Sides)
    assert torch.equal(whole.packed.ids_T, plain.packed.ids_T) and whole.mask_id == VOCAB_SIZE - 1
    ids_T, uniform_T = whole.packed.ids_T, whole.uniform_T
    assert bool((uniform_T[ids_T <= 3] == 1).all()) and bool((uniform_T[ids_T > 3] < 1).all())
    assert len(uniform_T[ids_T > 3].unique()) == int((ids_T > 3).sum()), "both sides of a pair draw their own"
    few, more = whole.hidden(0.2).ids_T, whole.hidden(0.6).ids_T
    assert torch.equal(few, torch.where(uniform_T < 0.2, VOCAB_SIZE - 1, ids_T))
    assert 0 < int((few != ids_T).sum()) < int((more != ids_T).sum())
    for at in range(len(SOURCE)):
        alone = Sequences(
            sequences.ids[at],
            *(vector[at : at + 1] for vector in (sequences.lengths_S, sequences.language_S, sequences.key_S)),
            sequences.sample_S[at : at + 1],
            np.array([[SOURCE[at], TARGET[at]]]),
        )
        one = collate(alone, 1, AddedWords(VOCAB_SIZE), [View("pairs", SidesToHide.name)])
        first, last = whole.packed.offsets_S1[2 * at], whole.packed.offsets_S1[2 * at + 2]
        assert torch.equal(one.view(SidesToHide).uniform_T, uniform_T[first:last])


def test_with_a_mask_rate_whole_sentences_are_linked_and_hidden_ones_contrasted(make_sequences: MakeSequences) -> None:
    stream = collate(
        make_sequences(SOURCE, TARGET),
        1,
        AddedWords(VOCAB_SIZE),
        [View("pairs", SidesToHide.name), View("pairs", Sides.name)],
    )
    batch, sides = MicroBatch({"pairs": stream}), stream.view(SidesToHide)
    masked = TokenContrast("token_contrast", [LAYER], LAYER, TEMPERATURE, 0.4)
    hidden_TD, seen = torch.randn(sides.packed.tokens, 16), []

    def encode(packed: Packed, layers: int | None = None) -> Tensor:
        seen.append(packed.ids_T)
        return hidden_TD

    labels, plain = (which.label(encode, {}, batch).tensors for which in (masked, objective()))
    assert torch.equal(labels[PARTNER], plain[PARTNER])
    losses = [which.loss(encode, {}, batch, labels).total for which in (masked, objective())]
    assert torch.equal(*losses), "of equal hidden states, which here do not depend on what was read"
    ids_T = sides.packed.ids_T
    assert all(torch.equal(*two) for two in zip(seen, (ids_T, ids_T, sides.hidden(0.4).ids_T, ids_T), strict=True))
    sizes = EncoderConfig(VOCAB_SIZE, LAYERS, 16, positions=66, heads=2, feed_forward=32)
    once = encoder_forward_flops(sizes, sides.length_C.numpy() + 2, LAYER)
    assert masked.flops(sizes, batch) - objective().flops(sizes, batch) == pytest.approx(3 * once)


def test_the_partners_are_the_links_that_the_aligner_finds(batch: MicroBatch, encoder: Encoder) -> None:
    labels = objective(label_layer=1).label(MicroStepEncoder(encoder), {}, batch)
    partner_T = labels.tensors[PARTNER].tolist()
    ids_T = batch["pairs"].view(Sides).packed.ids_T.tolist()

    class Ids:
        """Words that are ids already."""

        template = XLM_R

        def encode_words(self, words: list[str]) -> tuple[list[int], list[int]]:
            return [int(word) for word in words], list(range(len(words)))

    aligner = WordAligner(
        Ids(), lambda packed: [encoder.hidden_states(packed, 1)[1]], Way("argmax", "separate"), longest_side=62
    )
    words = [tuple([str(ids_T[token]) for token in side] for side in sides) for sides in cut(batch)]
    expected = [links for (links,) in aligner.align(words)]
    found = [sorted((t - s.start, partner_T[t] - o.start) for t in s if partner_T[t] >= 0) for s, o in cut(batch)]
    assert found == [sorted(links) for links in expected] and min(map(len, found)) > 0
    assert int(labels.metrics["links"]) == sum(map(len, found)) and int(labels.metrics["pairs"]) == len(SOURCE)


def test_a_pair_with_an_empty_side_teaches_nothing_and_harms_nothing(
    make_sequences: MakeSequences, encoder: Encoder
) -> None:
    batch = MicroBatch(
        {"pairs": collate(make_sequences([3, 4], [2, 0]), 1, AddedWords(VOCAB_SIZE), [View("pairs", Sides.name)])}
    )
    model = PretrainingModel(encoder, [objective()])
    labels = {name: found["labels"] for name, found in model("label", batch).items()}
    loss = model("losses", batch, labels)["token_contrast"]["loss"]
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert loss > 0 and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_layers_above_the_contrast_get_no_gradient_and_are_not_computed(batch: MicroBatch, encoder: Encoder) -> None:
    model = PretrainingModel(encoder, [objective(label_layer=1)])
    labels = {name: found["labels"] for name, found in model("label", batch).items()}
    model("losses", batch, labels)["token_contrast"]["loss"].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    layers = {int(name.split(".")[2]) for name in moved if name.startswith("encoder.layers.")}
    assert layers == {0, 1}, moved
    lengths = batch["pairs"].view(Sides).packed.sequence_lengths
    term = TokenContrastTerm(layer=LAYER, label_layer=1)
    forward = [encoder_forward_flops(encoder.config, lengths, depth) for depth in (1, LAYER)]
    own = 6.0 * 16 * float(np.dot(SOURCE, TARGET))
    assert model.flops(batch) == pytest.approx(forward[0] + 3 * forward[1] + own)

    class Sample:
        lengths_S, tokens, predicted, sides_C = lengths, int(lengths.sum()), 0, lengths - 2

    planned = catalog.flops(
        Objectives(mlm=None, tlm=None, dwa=None, token_contrast=term), "pairs", encoder.config, LAYERS, Sample()
    )
    assert planned == pytest.approx(model.flops(batch))


def test_layers_that_the_model_has_not_are_refused() -> None:
    terms = Objectives(mlm=None, tlm=None, dwa=None, token_contrast=TokenContrastTerm(layer=3, label_layer=9))
    with pytest.raises(ValueError, match=r"objectives\.token_contrast\.label_layer = 9: the model has 6 layers"):
        catalog.check_layers(terms, 6)
    with pytest.raises(ValueError, match=r"objectives\.token_contrast\.layer = 3"):
        catalog.check_layers(terms, 2)
