"""What an export writes of a model with a decoder: the tensors and the config.json of `EncoderDecoderModel`.

Knows what `open_weights` has opened; writes nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from data_prep.tokenizers.special_ids import BOS
from pipeline.weights.begun_from import OF_DECODER
from pipeline.weights.encoder_decoder import encoder_decoder_state, write_encoder_decoder_config
from pipeline.weights.hugging_face import build_encoder
from pipeline.weights.model_record import SECTION, TEXT_TO_TEXT_KEY, Record, section_of
from pipeline.weights.opening import Weights
from pipeline.weights.text_to_text_record import TextToTextRecord


def text_to_text_state(opened: Weights, read: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by their names; read: what `opened.state` has read."""
    assert opened.decoder is not None
    encoder = build_encoder(opened.sizes, read, opened.place)
    decoder = {name.removeprefix(OF_DECODER): read[name] for name in read if name.startswith(OF_DECODER)}
    state = encoder_decoder_state(encoder.state_dict(), decoder)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def text_to_text_config(opened: Weights, record: Record) -> dict[str, Any]:
    """The config.json, with the record; and how the model is told what to write, which Transformers does not read.

    Where the tag is at the source every output begins with `<s>`; else with the tag, which each call of `generate` says.
    """
    assert opened.decoder is not None
    start_id = BOS if opened.decoder.tag == "source" else None
    told = TextToTextRecord(opened.decoder.tag, tuple(languages_of(opened.words)), opened.decoder.sentinels)
    config = write_encoder_decoder_config(opened.sizes, opened.decoder, start_id, opened.dropouts)
    return {**config, SECTION: section_of(record) | {TEXT_TO_TEXT_KEY: told.as_json()}}


def languages_of(words: list[str]) -> list[str]:
    """The languages whose tags are among the words, in their order."""
    return [word.removeprefix("<2").removesuffix(">") for word in words if word.startswith("<2")]
