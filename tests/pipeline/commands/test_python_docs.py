"""The examples of docs/python.md run as they stand there, with a model that knows the words of the page."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data_prep.tokenizers.kinds import parse_model
from data_prep.tokenizers.tokenizer import Tokenizer, train
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.weights.hugging_face import hugging_face_state, write_config
from pipeline.weights.loading import load_model
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "python.md"
SAME = [("the", "das"), ("The", "Das"), ("house", "Haus"), ("old", "altes"), ("an", "ein"), (".", ".")]
"""Translations, whose vectors are the same and at right angles to all others."""


def whole_words() -> Tokenizer:
    """A tokenizer whose pieces are the words."""
    model = parse_model(train(["the house", "das Haus"] * 20, 14, 1.0, 4096).model)
    del model.pieces[3:]
    for piece in ("▁", *(f"▁{word}" for word in dict.fromkeys(word for words in SAME for word in words))):
        model.pieces.add(piece=piece, score=-1.0)
    return Tokenizer(model.SerializeToString())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with hf/base: layers that pass on what they get, and an embedding for every word and its translation."""
    folder = tmp_path / "hf" / "base"
    tokenizer = whole_words()
    tokenizer.save(folder)
    sizes = EncoderConfig(tokenizer.vocab_size, layers=8, hidden=64, heads=1, feed_forward=4, positions=66)
    encoder = Encoder(sizes)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        for name, parameter in encoder.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
        for number, words in enumerate(SAME):
            for word in words:
                for token in tokenizer.encode_words([word])[0]:
                    encoder.word.weight[token, 2 * number : 2 * number + 2] = torch.tensor([1.0, -1.0])
    state = hugging_face_state(encoder.state_dict(), None)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    config = {"model_type": "xlm-roberta", "hidden_act": "gelu", **write_config(sizes)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    load_model(folder)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("workspace")
def test_the_page_shows_what_its_calls_return() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.REPORT_NDIFF)
    assert tried >= 15 and failed == 0
