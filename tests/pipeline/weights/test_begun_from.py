"""What a new model takes of another's tensors: lowest layers, rows for words by their names, a decoder of the same sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.model.decoder import Decoder
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.settings.added_words import AddedWords
from pipeline.settings.schema import Config
from pipeline.settings.text_to_text import Decoder as Settings
from pipeline.weights.begun_from import OF_DECODER, decoder_names, load_decoder, lowest_layers, with_words
from pipeline.weights.fit import check_sizes
from pipeline.weights.hugging_face import build_encoder, hugging_face_state

INIT = Path("init")
WORD, BIAS = "roberta.embeddings.word_embeddings.weight", "lm_head.bias"


def test_the_lowest_layers_are_kept_and_no_others(sizes: EncoderConfig) -> None:
    encoder = Encoder(sizes)
    state = hugging_face_state(encoder.state_dict(), None)
    kept_sizes, kept = lowest_layers(sizes, state, 2)
    cut = build_encoder(kept_sizes, kept, INIT)
    assert len(cut.layers) == 2
    own = encoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in cut.state_dict().items())
    assert lowest_layers(sizes, state, None) == (sizes, state)
    content = {"data": {"path": "d"}, "model": {"init": INIT, "keep_layers": 4}, "run": {"out": "r"}, "deepspeed": "z"}
    with pytest.raises(ValueError, match=r"model.keep_layers = 4: model.init = init has 3 layers; choose 1 to that"):
        check_sizes(Config.model_validate(content), sizes, sizes.vocab_size)


def test_words_are_found_by_their_names_and_others_are_drawn_alike_in_every_table() -> None:
    known, theirs = 5, ["<sentinel_0>", "<2de>", "<2en>"]
    state = {
        WORD: torch.randn(8, 4),
        BIAS: torch.randn(8),
        OF_DECODER + "word.weight": torch.randn(8, 4),
        "x": torch.ones(8),
    }
    words = AddedWords(known, sentinels=2, languages=("en", "fr"))
    torch.manual_seed(3)
    found = with_words(state, words, theirs, 0.1)
    for name, tensor in found.items():
        assert torch.equal(tensor[:5], state[name][:5]), name
    table, other = found[WORD], found[OF_DECODER + "word.weight"]
    assert torch.equal(table[5], state[WORD][5]) and torch.equal(table[7], state[WORD][7]), "<sentinel_0>, <2en>"
    assert torch.equal(table[[6, 8]], other[[6, 8]]) and table[[6, 8]].any(), "<sentinel_1>, <2fr>"
    assert found[BIAS].tolist() == [*state[BIAS][:6].tolist(), 0.0, float(state[BIAS][7]), 0.0]
    assert found["x"] is state["x"]
    assert with_words(state, AddedWords(8), [], 0.1) is state
    assert len(with_words(state, AddedWords(known), theirs, 0.1)[WORD]) == known, "words that nobody asks for go"


@pytest.mark.parametrize("embeddings", ["tied", "own"])
def test_a_decoder_is_loaded_where_it_has_the_same_sizes(sizes: EncoderConfig, embeddings: str) -> None:
    def decoder(**changes: object) -> Decoder:
        torch.manual_seed(1)
        return Decoder(Encoder(sizes), Settings.model_validate({"layers": 2, "embeddings": embeddings, **changes}))

    one = decoder()
    state = {OF_DECODER + name: tensor.clone() for name, tensor in one.state_dict().items()}
    assert decoder_names(sizes, one.settings) == list(one.state_dict())
    other = decoder()
    torch.nn.init.zeros_(other.layers[0].cross.query.weight)
    assert load_decoder(other, state, INIT)
    assert all(torch.equal(tensor, state[OF_DECODER + name]) for name, tensor in other.state_dict().items())
    assert not load_decoder(other, {"x": torch.ones(1)}, INIT)
    with pytest.raises(ValueError, match=r"model.decoder: that of model.init = init has other sizes \(layers.2.*none"):
        load_decoder(decoder(layers=3), state, INIT)
    if embeddings == "tied":
        state[OF_DECODER + "word.weight"] = state[OF_DECODER + "word.weight"] + 1
        with pytest.raises(ValueError, match=r"tied: the decoder of model.init = init has tables of its own; give own"):
            load_decoder(decoder(), state, INIT)
