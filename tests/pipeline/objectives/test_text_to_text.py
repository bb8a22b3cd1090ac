"""Text to text as a term of the loss: what a step loses whatever it is cut into, one decoder for all, a frozen encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.batch import MicroBatch, View
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.data.views.text_to_text import TextToText as Texts
from pipeline.model.decoder import DECODER
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.objectives import catalog
from pipeline.objectives.base import LabelTensors
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.objectives.text_to_text import MEMORY, TextToText
from pipeline.settings.objectives import NoiseTerm, Objectives, SpanTerm, TranslationTerm
from pipeline.settings.schema import Model
from pipeline.settings.text_to_text import WRITING, Decoder
from tests.pipeline.data.text_to_text_kit import WORDS, blocks, only, pairs

TERMS = Objectives(
    mlm=None,
    tlm=None,
    dwa=None,
    sc=SpanTerm(density=0.3, span=2.0),
    tsc=SpanTerm(),
    tpsc=SpanTerm(groups=1),
    dae=NoiseTerm(),
    mt=TranslationTerm(label_smoothing=0.1),
)
BLOCKS = [[list(range(4, 20)), [30, 31]], [[7, 8, 9]], [list(range(20, 50))], [[5, 6, 11, 12, 13]]]
PAIRS = [([4, 5, 6, 7], [8, 9]), ([10], [11, 12, 13]), (list(range(14, 30)), list(range(30, 44))), ([5, 6], [7, 8])]


def objectives(freezes: bool = False, **decoder: Any) -> list[TextToText]:
    model = Model.model_construct(
        decoder=Decoder(layers=2, **decoder), freeze="encoder" if freezes else None, init=None
    )
    built = [catalog.ENTRIES[name].build(name, term, model) for name, term in TERMS.active().items()]
    return [objective for objective in built if isinstance(objective, TextToText)]


def batch_of(reading: list[TextToText], places: list[int]) -> MicroBatch:
    streams: dict[str, Sequences] = {"mono": only(blocks(BLOCKS), places), "pairs": only(pairs(PAIRS), places)}
    views = {
        name: [view for objective in reading for view in objective.reads if view.stream == name] for name in streams
    }
    return MicroBatch({name: collate(sequences, 1, WORDS, views[name]) for name, sequences in streams.items()})


def model_of(reading: list[TextToText]) -> PretrainingModel:
    torch.manual_seed(3)
    sizes = EncoderConfig(WORDS.vocab_size, layers=2, hidden=16, heads=2, feed_forward=32, positions=70, init_std=0.3)
    return PretrainingModel(Encoder(sizes), reading).double()


def labels_of(model: PretrainingModel, batch: MicroBatch) -> dict[str, LabelTensors]:
    with torch.no_grad():
        return {name: found["labels"] for name, found in model("label", batch).items()}


def lost(model: PretrainingModel, batches: list[MicroBatch]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """(each objective's loss, gradients by parameter) of a step that is cut like this."""
    totals: dict[str, float] = {}
    model.zero_grad()
    for batch in batches:
        found = model("losses", batch, labels_of(model, batch))
        torch.stack([values["loss"] for values in found.values()]).sum().backward()
        for name, values in found.items():
            totals[name] = totals.get(name, 0.0) + float(values["loss"])
    return totals, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_catalog_says_what_the_objectives_do() -> None:
    built = objectives()
    assert [objective.name for objective in built] == list(WRITING)
    model = model_of(built)
    assert list(model.heads) == [DECODER], "one decoder is shared"
    batch = batch_of(built, [0, 1, 2, 3])
    found = model("losses", batch, labels_of(model, batch))
    for objective in built:
        entry = catalog.ENTRIES[objective.name]
        assert objective.streams == list(entry.streams)
        count = int(objective.count(batch, {}))
        texts = batch.of(objective.reads[0])
        assert isinstance(texts, Texts) and count == texts.target.tokens == len(texts.label_T)
        sums = {name: float(value) for name, value in found[objective.name].items()}
        keys = objective.report(sums, count).keys()
        assert keys <= {"loss", *(figure.key for figure in entry.figures)} and {"loss", "accuracy"} <= keys
        assert ("nll" in keys) == (objective.name == "mt")


@pytest.mark.parametrize("layout", ["vanilla", "interleaved"])
@pytest.mark.parametrize("cuts", [[[0, 1], [2, 3]], [[3], [0], [2], [1]]])
def test_a_step_loses_the_same_however_it_is_cut(layout: str, cuts: list[list[int]]) -> None:
    built = objectives(layout=layout)
    model = model_of(built)
    whole, whole_gradients = lost(model, [batch_of(built, [0, 1, 2, 3])])
    cut, cut_gradients = lost(model, [batch_of(built, places) for places in cuts])
    assert cut == pytest.approx(whole, rel=1e-9)
    for name, gradient in whole_gradients.items():
        torch.testing.assert_close(cut_gradients[name], gradient, rtol=1e-9, atol=1e-9)


def test_a_frozen_encoder_has_no_gradient_and_the_decoder_has_the_same() -> None:
    frozen, learning = objectives(freezes=True, embeddings="own"), objectives(embeddings="own")
    models = [model_of(built) for built in (frozen, learning)]
    batch = batch_of(frozen, [0, 1, 2, 3])
    labels = labels_of(models[0], batch)
    assert all(not label[MEMORY].requires_grad for label in labels.values())
    (of_frozen, gradients), (of_learning, expected) = (lost(model, [batch]) for model in models)
    assert of_frozen == pytest.approx(of_learning, rel=1e-12)
    for name, gradient in gradients.items():
        if name.startswith("encoder."):
            assert not gradient.any() and expected[name].any(), name
        else:
            torch.testing.assert_close(gradient, expected[name])


def test_two_objectives_read_one_kind_of_view_by_their_own_options() -> None:
    built = {objective.name: objective for objective in objectives()}
    batch = batch_of(list(built.values()), [0, 1, 2, 3])
    one, both = (batch.of(built[name].reads[0]) for name in ("tsc", "tpsc"))
    assert isinstance(one, Texts) and isinstance(both, Texts)
    assert View("pairs", "spans", built["tsc"].reads[0].options) in batch
    assert len(both.target.sequence_lengths) == len(PAIRS), "one group each"
    assert one.label_T.shape != both.label_T.shape
