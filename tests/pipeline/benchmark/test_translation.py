"""Translation: the padded step through Hugging Face's model has the packed one's loss and gradients; ratios are of rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.benchmark.padded_translation import PaddedPairs, PaddedTranslator
from pipeline.benchmark.translation import CONFIG, OURS, PEER, SETTINGS, UNITS, check, figures
from pipeline.data.batch import View
from pipeline.data.views.text_to_text import Texts
from pipeline.data.views.translation import Translated
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.objectives.text_to_text import DECODER, TextToText
from pipeline.settings.schema import load_config
from pipeline.settings.text_to_text import Decoder
from pipeline.settings.text_to_text_views import TranslationOptions
from pipeline.weights.encoder_decoder import encoder_decoder_state

WORDS, TOLERANCE = 64, 1e-5
READING = View("pairs", "translation", TranslationOptions("target"))


def ragged(lengths: list[int], seed: int) -> Texts:
    ids_T = np.random.default_rng(seed).integers(3, WORDS, sum(lengths))
    return Texts(ids_T, np.array(lengths))


def translated() -> Translated:
    source, target = ragged([9, 1, 14, 30, 6], seed=1), ragged([7, 13, 2, 21, 1], seed=2)
    return Translated.tagged(source, target, np.array([60, 61, 60, 61, 61]), "target")


def model(smoothing: float) -> PretrainingModel:
    """With weights large enough that attention is not flat."""
    sizes = EncoderConfig(WORDS, layers=2, hidden=16, heads=2, feed_forward=32, positions=70, init_std=0.2)
    objective = TextToText("mt", READING, Decoder(layers=3, embeddings="own"), smoothing)
    return PretrainingModel(Encoder(sizes), [objective])


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_a_padded_step(smoothing: float) -> None:
    ours, texts = model(smoothing), translated()
    theirs, padded = PaddedTranslator(ours, smoothing), PaddedPairs.of(texts)
    assert padded.tokens == texts.source.tokens + texts.target.tokens < padded.places
    decoder = ours.heads[DECODER]
    total, *_ = decoder(
        ours.encoder(texts.source), texts.source, texts.target, texts.crossing, texts.label_T, smoothing
    )
    expected = theirs(padded)
    torch.testing.assert_close(total, expected, rtol=TOLERANCE, atol=0)
    assert float(expected.detach()) > 1
    total.backward()
    expected.backward()

    own, found = gradients(ours.encoder), gradients(decoder)
    named = {name: gradient for name, gradient in encoder_decoder_state(own, found).items() if "pooler" not in name}
    every = dict(theirs.model.named_parameters(remove_duplicate=False))  # the output layer is the words' table
    compared = {name: every[name].grad for name in named}
    assert sum(map(torch.numel, theirs.parameters())) == sum(map(torch.numel, ours.parameters()))
    assert sum(map(torch.numel, named.values())) == sum(map(torch.numel, ours.parameters()))
    whole = torch.stack([gradient.norm() for gradient in compared.values()]).norm()
    for name, gradient in compared.items():
        # A parameter whose gradient is next to nothing (a key's bias moves no attention) is measured against the whole.
        assert (named[name] - gradient).norm() <= TOLERANCE * max(gradient.norm(), 1e-2 * whole), name


def lines(seconds: float, loss: float = 2.0) -> list[dict[str, float]]:
    values = dict.fromkeys(UNITS, seconds) | {"mt_loss": loss, "real_share": 0.5}
    return [{"step": step, **values} for step in (1, 2, 3)]


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    rounds = [
        {PEER: lines(1.0), OURS: lines(2.0)},
        {PEER: lines(5.0), OURS: lines(5.0)},
        {PEER: lines(2.0), OURS: lines(6.0)},
    ]
    rounds[1][OURS][2]["mt_loss"] = 2.002
    entries = {(entry["name"], entry["contender"]): entry for entry in figures(rounds)}
    speed = entries["translation: tokens_per_second", OURS]
    assert (speed["value"], speed["ratio_to"], speed["ratios"]) == (5.0, {PEER: 2.0}, [2.0, 1.0, 3.0])
    assert entries["loss difference", OURS]["value"] == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("objectives.tlm={}", "tlm, mt are on"),
        ("model.decoder.embeddings=tied", "embeddings: own"),
        ("model.decoder.layout=interleaved", "layout: vanilla"),
        ("model.dropout=0.1", "model.dropout = 0.1"),
    ],
)
def test_what_cannot_be_compared_is_told(setting: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check(load_config(CONFIG, ["data.path=data", *SETTINGS, setting]))
