"""What a new model takes of a pretrained one's tensors: its lowest layers, rows for words that it did not have, its decoder.

Knows tensors by Hugging Face's names, and words; nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.model.decoder import DECODER, Decoder
from pipeline.model.encoder import Encoder
from pipeline.settings.added_words import AddedWords
from pipeline.settings.sizes import EncoderConfig
from pipeline.settings.text_to_text import Decoder as Settings
from pipeline.weights.hugging_face import WithoutDrawing

OF_DECODER = f"{DECODER}."
"""How the names begin of a decoder's tensors; then come its own."""
_OF_WORDS = (
    "word_embeddings.weight",
    "lm_head.bias",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    *(OF_DECODER + name for name in ("word.weight", "head.weight", "head.bias")),
)
"""How the names end of tensors with a row for each word."""
_TABLES = ("word.weight", "position.weight", "head.weight")
"""Of a decoder, what may be the encoder's."""


def decoder_names(sizes: EncoderConfig, settings: Settings) -> list[str]:
    """The names of a decoder's tensors, by its sizes."""
    with torch.device("meta"), WithoutDrawing():
        return list(Decoder(Encoder(sizes), settings).state_dict())


def lowest_layers(
    sizes: EncoderConfig, state: dict[str, Tensor], keep: int | None
) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Sizes and tensors of a model of the lowest layers alone (None: all)."""
    if keep is None:
        return sizes, state
    assert keep <= sizes.layers, "`check_sizes` has asked"

    def is_kept(name: str) -> bool:
        layer = re.match(r"(?:roberta\.)?encoder\.layer\.(\d+)\.", name)
        return layer is None or int(layer[1]) < keep

    return replace(sizes, layers=keep), {name: tensor for name, tensor in state.items() if is_kept(name)}


def with_words(state: dict[str, Tensor], words: AddedWords, theirs: Sequence[str], std: float) -> dict[str, Tensor]:
    """The tensors with a row for each of the model's words.

    theirs: words that the pretrained model has beyond the data's, whose rows are taken where the names are the same. New rows
    are drawn from a normal distribution of this deviation, or are 0 in a bias.
    """
    if not words.names and not theirs:
        return state
    places = {name: words.known + place for place, name in enumerate(theirs)}
    seed = torch.initial_seed()

    def grown(tensor: Tensor) -> Tensor:
        new = tensor.new_zeros(words.vocab_size, *tensor.shape[1:])
        if tensor.dim() > 1:
            # Of the same seed for each: a decoder's table may have to stay equal to the encoder's.
            torch.nn.init.normal_(new[words.known :], std=std, generator=torch.Generator().manual_seed(seed))
        new[: words.known] = tensor[: words.known]
        for place, name in enumerate(words.names):
            if name in places:
                new[words.known + place] = tensor[places[name]]
        return new

    return {name: grown(tensor) if name.endswith(_OF_WORDS) else tensor for name, tensor in state.items()}


def load_decoder(decoder: Decoder, state: dict[str, Tensor], init: Path) -> bool:
    """Copy a decoder's weights; False, and nothing done, where there are none.

    Raises:
        ValueError: they are of a decoder of other sizes.
    """
    theirs = {name.removeprefix(OF_DECODER): tensor for name, tensor in state.items() if name.startswith(OF_DECODER)}
    if not theirs:
        return False
    own = decoder.state_dict()
    if decoder.settings.embeddings == "tied":  # the encoder's, which are loaded
        for name in _TABLES:
            if not torch.equal(own.pop(name), theirs.pop(name)):
                raise ValueError(
                    f"model.decoder.embeddings = tied: the decoder of model.init = {init} has tables of its own; give own"
                )
    for name in sorted(own.keys() | theirs.keys()):
        shapes = [list(tensors[name].shape) if name in tensors else "none" for tensors in (theirs, own)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"model.decoder: that of model.init = {init} has other sizes ({name} {shapes[0]}, here {shapes[1]}); give the "
                "settings that it was trained with, or another model.init"
            )
        own[name].copy_(theirs[name])
    return True
