"""A trained model and its tokenizer, ready to be used, from whatever `open_weights` opens.

Knows modules and tokenizers; nothing of files, nor of what the model is used for.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.heads import MaskedLMHead
from pipeline.settings.align_options import AlignOptions
from pipeline.weights.hugging_face import build_encoder, load_head
from pipeline.weights.opening import open_weights

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class LoadedModel:
    """A model to use, in eval mode."""

    encoder: Encoder
    head: MaskedLMHead | None
    tokenizer: Tokenizer
    recorded: AlignOptions | None
    """How words align best with it, where it says so."""


def load(folder: Path, tokenizer_dir: Path | None = None, with_head: bool = False) -> LoadedModel:
    """The encoder of a folder, its SentencePiece tokenizer (that of `tokenizer_dir` goes before its own), and its record.

    folder: what `open_weights` takes.

    Raises:
        ValueError: the folder is none of these, or the tokenizer is not the model's.
    """
    opened = open_weights(folder)
    for note in opened.notes:
        print(f"note: {note}", file=sys.stderr)
    sizes, state = opened.sizes, opened.state()
    encoder = build_encoder(sizes, state, folder)
    head = None
    if with_head:
        head = MaskedLMHead(encoder.word, sizes.norm_eps, sizes.init_std).eval()
        head = head if load_head(head, state, folder) else None
    tokenizer = opened.tokenizer(tokenizer_dir)
    for note in opened.notes_on_words(tokenizer):
        print(f"note: {note}", file=sys.stderr)
    return LoadedModel(encoder.eval(), head, tokenizer, opened.record.options)


def load_model(folder: Path, tokenizer_dir: Path | None = None) -> tuple[Encoder, Tokenizer]:
    """Encoder and tokenizer of `load`."""
    loaded = load(folder, tokenizer_dir)
    return loaded.encoder, loaded.tokenizer


def load_masked_lm(folder: Path, tokenizer_dir: Path | None = None) -> tuple[Encoder, MaskedLMHead, Tokenizer]:
    """`load_model` with the masked-LM head; ValueError also where the model has none."""
    loaded = load(folder, tokenizer_dir, with_head=True)
    return loaded.encoder, head_of(loaded, folder), loaded.tokenizer


def head_of(loaded: LoadedModel, folder: Path) -> MaskedLMHead:
    """The masked-LM head; ValueError where the model has none."""
    if loaded.head is None:
        raise ValueError(f"{folder}: has no masked-LM head; give a model that was trained with MLM or TLM")
    return loaded.head


def longest_side(sizes: EncoderConfig, encoding: str = "joint") -> int:
    """Tokens of a side so that what is encoded at once, a pair or (`separate`) a side, fits the model's positions."""
    return (sizes.longest - 3) // 2 if encoding == "joint" else sizes.longest - 2
