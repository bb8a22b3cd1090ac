"""Encoder and decoder as a folder that Transformers loads: equal logits, nothing missing, and the same weights back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EncoderDecoderModel

from data_prep.tokenizers.special_ids import BOS, EOS, PAD
from pipeline.data.crossing import cross
from pipeline.data.packing import pack
from pipeline.model.decoder import Decoder
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.interleaved_lm import InterleavedForCausalLM, register
from pipeline.settings import text_to_text
from pipeline.weights.encoder_decoder import (
    decoder_tensors,
    encoder_decoder_state,
    encoder_state,
    read_encoder_decoder_config,
    write_encoder_decoder_config,
)
from pipeline.weights.hugging_face import CONFIG_NAME, SAFETENSORS, build_encoder

SIZES = EncoderConfig(50, layers=4, hidden=32, heads=4, feed_forward=48, positions=42)
SETTINGS = [
    {"layout": "vanilla"},
    {"layout": "vanilla", "embeddings": "own"},
    {"layout": "interleaved"},
]


def models(settings: dict[str, Any]) -> tuple[Encoder, Decoder]:
    """No parameter is 0 or 1, so that none can be mistaken for another."""
    torch.manual_seed(0)
    encoder = Encoder(SIZES)
    decoder = Decoder(encoder, text_to_text.Decoder(layers=2, **settings))
    pair = nn.ModuleList([encoder, decoder]).eval()
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return encoder, decoder


def write(encoder: Encoder, decoder: Decoder, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    state = encoder_decoder_state(encoder.state_dict(), decoder.state_dict())
    save_file(state, folder / SAFETENSORS, metadata={"format": "pt"})
    config = write_encoder_decoder_config(encoder.config, decoder.settings, BOS)
    (folder / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")


def load(folder: Path) -> EncoderDecoderModel:
    model, found = EncoderDecoderModel.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def padded(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    ids_BL = torch.tensor([[*ids, *[PAD] * (longest - len(ids))] for ids in sequences])
    return ids_BL, ids_BL != PAD


def random_sequences(lengths: list[int]) -> list[list[int]]:
    draw = np.random.default_rng(len(lengths))
    return [draw.integers(4, SIZES.vocab_size, length).tolist() for length in lengths]


@torch.no_grad()
def logits(encoder: Encoder, decoder: Decoder, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    source, target = pack(sources), pack(targets)
    crossing = cross(source, target, np.arange(len(sources)))
    return decoder.head.logits(decoder.hidden(encoder(source), source, target, crossing))


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Decoder, Path]:
    register()
    encoder, decoder = models(request.param)
    folder = tmp_path_factory.mktemp("encoder_decoder")
    write(encoder, decoder, folder)
    return encoder, decoder, folder


@torch.no_grad()
def test_transformers_load_all_of_it_and_compute_the_same_logits(written: tuple[Encoder, Decoder, Path]) -> None:
    encoder, decoder, folder = written
    sources, targets = random_sequences([9, 3, 40, 1]), random_sequences([6, 40, 1, 11])
    (ids_BL, real_BL), (read_BM, given_BM) = padded(sources), padded(targets)
    theirs = load(folder)(
        input_ids=ids_BL, attention_mask=real_BL, decoder_input_ids=read_BM, decoder_attention_mask=given_BM
    )
    ours = logits(encoder, decoder, sources, targets)
    torch.testing.assert_close(ours, theirs.logits[given_BM], rtol=0, atol=1e-4)


@torch.no_grad()
def test_what_transformers_generate_is_the_likeliest_word_after_each_prefix(
    written: tuple[Encoder, Decoder, Path],
) -> None:
    encoder, decoder, folder = written
    sources = random_sequences([9, 3, 20])
    ids_BL, real_BL = padded(sources)
    found_BM = load(folder).generate(input_ids=ids_BL, attention_mask=real_BL, max_new_tokens=12, do_sample=False)
    ends = []
    for row, source in zip(found_BM.tolist(), sources, strict=True):
        target = [BOS]
        while len(target) < found_BM.shape[1] and target[-1] != EOS:
            target.append(int(logits(encoder, decoder, [source], [target])[-1].argmax()))
        ends.append(len(target))
        assert row == [*target, *[PAD] * (found_BM.shape[1] - len(target))]
    assert max(ends) > 3, "what is compared is more than a word"


def test_weights_and_sizes_come_back(written: tuple[Encoder, Decoder, Path]) -> None:
    encoder, decoder, folder = written
    state = load_file(folder / SAFETENSORS)
    back = decoder_tensors(decoder.state_dict(), state, folder)
    assert back.keys() == decoder.state_dict().keys()
    assert all(torch.equal(tensor, back[name]) for name, tensor in decoder.state_dict().items())
    sizes, shape = read_encoder_decoder_config(folder)
    assert sizes == SIZES
    assert (shape.layers, shape.layout, shape.start_id) == (2, decoder.settings.layout, BOS)
    same = build_encoder(sizes, encoder_state(state), folder).state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in encoder.state_dict().items())
    tables = (state[f"{part}.embeddings.word_embeddings.weight"] for part in ("encoder", "decoder.roberta"))
    assert torch.equal(*tables) is (decoder.settings.embeddings == "tied")


def test_a_shared_table_that_is_named_once_is_found() -> None:
    encoder, decoder = models({})
    shared = {"word.weight", "position.weight", "head.weight"}
    lean = {name: tensor for name, tensor in decoder.state_dict().items() if name not in shared}
    whole, state = (encoder_decoder_state(encoder.state_dict(), held) for held in (decoder.state_dict(), lean))
    assert state.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in state.items())


def test_beams_of_an_interleaved_decoder_do_not_mix(tmp_path: Path) -> None:
    register()
    write(*models({"layout": "interleaved"}), tmp_path)
    model = load(tmp_path)
    assert isinstance(model.decoder, InterleavedForCausalLM)
    ids_BL, real_BL = padded(random_sequences([9, 3, 20]))
    how = {"attention_mask": real_BL, "max_new_tokens": 10, "num_beams": 3, "do_sample": False}
    cached, anew = (model.generate(input_ids=ids_BL, use_cache=use_cache, **how) for use_cache in (True, False))
    assert cached.tolist() == anew.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder": {"model_type": "bert"}}, "the encoder's model_type is 'bert'"),
        ({"decoder": {"model_type": "bert"}}, "the decoder's model_type is 'bert'"),
        ({"decoder": {"add_cross_attention": False}}, "add_cross_attention of the decoder is False"),
        ({"decoder": {"intermediate_size": 64}}, "the decoder has other widths than the encoder"),
        ({"decoder": {"num_hidden_layers": 0}}, "num_hidden_layers is 0"),
        ({"decoder_start_token_id": 50}, "decoder_start_token_id is 50"),
    ],
    ids=str,
)
def test_a_config_of_something_else_is_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    config = write_encoder_decoder_config(SIZES, text_to_text.Decoder(layers=2), BOS)
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        read_encoder_decoder_config(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_weights_that_lack_some_or_have_another_output_layer_are_refused() -> None:
    encoder, decoder = models({})
    state = encoder_decoder_state(encoder.state_dict(), decoder.state_dict())
    names, place = list(decoder.state_dict()), Path("folder")
    other = state | {"decoder.lm_head.decoder.weight": torch.zeros(50, 32)}
    with pytest.raises(ValueError, match="folder: the decoder's output layer is not tied"):
        decoder_tensors(names, other, place)
    del state["decoder.roberta.encoder.layer.1.crossattention.self.query.weight"]
    with pytest.raises(ValueError, match=re.escape("folder: lacks decoder.roberta.encoder.layer.1.crossattention")):
        decoder_tensors(names, state, place)
