"""To and from Hugging Face: an encoder and a decoder under `EncoderDecoderModel`'s names, and its config.json.

The encoder is theirs as `XLMRobertaModel`, the decoder as `XLMRobertaForCausalLM` with cross-attention, or as
`pipeline.model.interleaved_lm`'s. Knows names and shapes; runs no model and reads no weights' file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from data_prep.tokenizers.special_ids import BOS, EOS, PAD
from pipeline.model.decoder_layer import INTERLEAVED_KIND
from pipeline.model.encoder import EncoderConfig
from pipeline.settings import text_to_text
from pipeline.weights.hugging_face import (
    ARCHITECTURE,
    CONFIG_NAME,
    DROPOUTS,
    hugging_face_name,
    other_architecture,
    sizes_of,
    write_config,
)

ENCODER_DECODER = "encoder-decoder"
"""The model_type of a folder that has both."""
_ENCODER, _DECODER = "encoder.", "decoder."
_TABLES = ("word.weight", "position.weight")
_OUTPUT = "head.weight"
"""The output layer, which is the decoder's word embedding."""
_LAYER = r"layers\.(\d+)\."
_THEIR_LAYER = r"roberta.encoder.layer.\1."
_NAMES = {
    r"word\.": "roberta.embeddings.word_embeddings.",
    r"position\.": "roberta.embeddings.position_embeddings.",
    r"token_type\.": "roberta.embeddings.token_type_embeddings.",
    r"embedding_norm\.": "roberta.embeddings.LayerNorm.",
    rf"{_LAYER}attention\.(query|key|value)\.": rf"{_THEIR_LAYER}attention.self.\2.",
    rf"{_LAYER}attention\.out\.": rf"{_THEIR_LAYER}attention.output.dense.",
    rf"{_LAYER}attention\.norm\.": rf"{_THEIR_LAYER}attention.output.LayerNorm.",
    rf"{_LAYER}between\.up\.": rf"{_THEIR_LAYER}attention.between.intermediate.dense.",
    rf"{_LAYER}between\.down\.": rf"{_THEIR_LAYER}attention.between.output.dense.",
    rf"{_LAYER}between\.norm\.": rf"{_THEIR_LAYER}attention.between.output.LayerNorm.",
    rf"{_LAYER}cross\.(query|key|value)\.": rf"{_THEIR_LAYER}crossattention.self.\2.",
    rf"{_LAYER}cross\.out\.": rf"{_THEIR_LAYER}crossattention.output.dense.",
    rf"{_LAYER}cross\.norm\.": rf"{_THEIR_LAYER}crossattention.output.LayerNorm.",
    rf"{_LAYER}feed_forward\.up\.": rf"{_THEIR_LAYER}intermediate.dense.",
    rf"{_LAYER}feed_forward\.down\.": rf"{_THEIR_LAYER}output.dense.",
    rf"{_LAYER}feed_forward\.norm\.": rf"{_THEIR_LAYER}output.LayerNorm.",
    r"head\.dense\.": "lm_head.dense.",
    r"head\.norm\.": "lm_head.layer_norm.",
    r"head\.bias$": "lm_head.bias",
    r"head\.weight$": "lm_head.decoder.weight",
}


def is_encoder_decoder(folder: Path) -> bool:
    """Whether a Hugging Face folder is of a model with a decoder."""
    return other_architecture(folder) == ENCODER_DECODER


def decoder_name(name: str) -> str:
    """Our decoder parameter's name in `EncoderDecoderModel`."""
    for pattern, replacement in _NAMES.items():
        renamed, hits = re.subn(f"^{pattern}", replacement, name)
        if hits:
            return _DECODER + renamed
    raise AssertionError(f"no Hugging Face name for {name}")


def encoder_decoder_state(encoder: dict[str, Tensor], decoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `EncoderDecoderModel`, from the states of our `Encoder` and `Decoder` by our names.

    Tables that the decoder shares with the encoder, and so may lack, are there twice, as their loader needs them; the output
    layer, which is tied inside the decoder, is left out as they do it. Their encoder has a pooler that nothing reads: zeros.
    """
    shared = {name: decoder.get(name, encoder[name]).clone() for name in _TABLES}
    state = {_ENCODER + hugging_face_name(name): tensor for name, tensor in encoder.items()}
    state |= {decoder_name(name): tensor for name, tensor in (decoder | shared).items() if name != _OUTPUT}
    bias_D = torch.zeros_like(encoder["embedding_norm.bias"])
    pooler = {"weight": bias_D.new_zeros(len(bias_D), len(bias_D)), "bias": bias_D}
    return state | {f"{_ENCODER}pooler.dense.{name}": tensor for name, tensor in pooler.items()}


def encoder_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's part of a state dict of `EncoderDecoderModel`, by `XLMRobertaModel`'s names: `hugging_face` reads those."""
    return {name.removeprefix(_ENCODER): tensor for name, tensor in state.items() if name.startswith(_ENCODER)}


def decoder_tensors(names: Iterable[str], state: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The decoder's tensors by our names, which are `names`, from a state dict of `EncoderDecoderModel`.

    Raises:
        ValueError: one is not there, or the output layer is not tied to the decoder's word embeddings.
    """
    word = decoder_name("word.weight")
    output = state.get(decoder_name(_OUTPUT))
    if output is not None and not (word in state and torch.equal(output, state[word])):
        raise ValueError(
            f"{source}: the decoder's output layer is not tied to its word embeddings, only tied ones are built; give another "
            "model"
        )
    found = {}
    for name in names:
        theirs = word if name == _OUTPUT else decoder_name(name)
        if theirs not in state:
            raise ValueError(f"{source}: lacks {theirs} (Hugging Face's name); give a whole model with a decoder")
        # As of the encoder: a token is always of type 0.
        found[name] = state[theirs][:1] if name.startswith("token_type.") else state[theirs]
    return found


def write_encoder_decoder_config(
    sizes: EncoderConfig,
    decoder: text_to_text.Decoder,
    start_id: int | None,
    dropouts: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The config.json of `EncoderDecoderModel`.

    start_id: the word that a decoder begins with whatever it is asked for; None: there is no such word, and each call of
    `generate` has to say one. dropouts: by `DROPOUTS`' names; None: XLM-R's.
    """
    section = {"hidden_act": "gelu", **write_config(sizes, dropouts or DROPOUTS), "tie_word_embeddings": True}
    kind = INTERLEAVED_KIND if decoder.layout == "interleaved" else ARCHITECTURE
    writes = {"model_type": kind, "num_hidden_layers": decoder.layers, "is_decoder": True, "add_cross_attention": True}
    return {
        "architectures": ["EncoderDecoderModel"],
        "model_type": ENCODER_DECODER,
        "is_encoder_decoder": True,
        "dtype": "float32",
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        **({} if start_id is None else {"decoder_start_token_id": start_id}),
        "encoder": {**section, "model_type": ARCHITECTURE},
        "decoder": {**section, **writes},
    }


@dataclass(frozen=True)
class DecoderShape:
    """What a config.json says of a decoder; its widths are the encoder's."""

    layers: int
    layout: Literal["vanilla", "interleaved"]
    start_id: int | None


def read_encoder_decoder_config(folder: Path, dropout: float = 0.0) -> tuple[EncoderConfig, DecoderShape]:
    """Sizes of the encoder and the decoder in a Hugging Face folder whose model_type is `ENCODER_DECODER`.

    Raises:
        ValueError: it is another model, or one whose decoder has other widths than its encoder.
    """
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    sections = {part: content.get(part) for part in ("encoder", "decoder")}
    for part, section in sections.items():
        kinds = [ARCHITECTURE] + ([INTERLEAVED_KIND] if part == "decoder" else [])
        kind = section.get("model_type") if isinstance(section, dict) else None
        if kind not in kinds:
            raise ValueError(f"{path}: the {part}'s model_type is {kind!r}, {' or '.join(kinds)} is needed")
    encoder, decoder = sections["encoder"], sections["decoder"]
    assert isinstance(encoder, dict) and isinstance(decoder, dict)
    for name in ("is_decoder", "add_cross_attention"):
        if decoder.get(name) is not True:
            raise ValueError(
                f"{path}: {name} of the decoder is {decoder.get(name)!r}, only true is built; give another model"
            )
    sizes = sizes_of(encoder, path, dropout)
    theirs = sizes_of({**decoder, "is_decoder": False, "add_cross_attention": False}, path, dropout)
    if replace(theirs, layers=sizes.layers) != sizes:
        raise ValueError(
            f"{path}: the decoder has other widths than the encoder, only the same are built; give another model"
        )
    start_id = content.get("decoder_start_token_id")
    if start_id is not None and not (type(start_id) is int and 0 <= start_id < sizes.vocab_size):
        raise ValueError(f"{path}: decoder_start_token_id is {start_id!r}, no id of a word; correct the file")
    return sizes, DecoderShape(
        theirs.layers, "interleaved" if decoder["model_type"] == INTERLEAVED_KIND else "vanilla", start_id
    )
