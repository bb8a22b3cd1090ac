"""A trained model and its tokenizer, ready to be used, from whatever `open_weights` opens; or any encoder of Transformers.

Knows modules and tokenizers; nothing of files, nor of what the model is used for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_prep.tokenizers.template import XLM_R, Template
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.model.devices import Place
from pipeline.model.encoder import Encoder
from pipeline.model.heads import MaskedLMHead
from pipeline.model.transformers_encoder import AnyEncoder, Shape
from pipeline.settings.align_options import AlignOptions
from pipeline.weights.encoder_decoder import ENCODER_DECODER
from pipeline.weights.hub import local_folder
from pipeline.weights.hugging_face import CONFIG_NAME, build_encoder, load_head, other_architecture
from pipeline.weights.model_record import record_of_config
from pipeline.weights.opening import open_weights
from pipeline.weights.sentence_projection import SentenceProjection


class AnyTokenizer(Protocol):
    """What the aligner and the measures ask of a tokenizer: ids of words and of sentences, and what stands around them."""

    @property
    def template(self) -> Template: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]: ...


@dataclass
class LoadedModel:
    """A model to use, in eval mode."""

    encoder: AnyEncoder
    head: MaskedLMHead | None
    tokenizer: AnyTokenizer
    recorded: AlignOptions | None
    """How words align best with it, where it says so."""
    projection: SentenceProjection | None = None
    """Of its sentence vectors, where it was trained with one."""

    def to(self, place: Place) -> LoadedModel:
        """The same model there."""
        self.encoder.to(place.device, place.dtype)
        if self.head is not None:
            self.head.to(place.device, place.dtype)
        return self


def load(folder: Path, tokenizer_dir: Path | None = None, with_head: bool = False) -> LoadedModel:
    """The encoder of a folder, its tokenizer (that of `tokenizer_dir` goes before its own), and its record.

    folder: what `open_weights` takes, or another encoder's Hugging Face folder or name on the hub, see
        `read_transformers_model`.

    Raises:
        ValueError: the folder is none of these, or the tokenizer is not the model's; a head is wanted of another encoder.
    """
    folder = local_folder(folder)
    kind = other_architecture(folder)
    if kind is not None and kind != ENCODER_DECODER:
        if with_head:
            raise ValueError(f"{folder}: model_type is {kind!r}, only the head of an xlm-roberta model is read")
        return _load_other(folder, tokenizer_dir)
    return _load_own(folder, tokenizer_dir, with_head)


def _load_other(folder: Path, tokenizer_dir: Path | None) -> LoadedModel:
    from pipeline.weights.transformers_model import read_transformers_model  # takes seconds to import

    path = folder / CONFIG_NAME
    recorded = record_of_config(json.loads(path.read_text(encoding="utf-8")), path).options
    encoder, tokenizer = read_transformers_model(folder, tokenizer_dir)
    return LoadedModel(encoder, None, tokenizer, recorded)


@dataclass
class OwnModel(LoadedModel):
    """An XLM-R-shaped one."""

    encoder: Encoder
    tokenizer: Tokenizer


def _load_own(folder: Path, tokenizer_dir: Path | None, with_head: bool) -> OwnModel:
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
    return OwnModel(encoder.eval(), head, tokenizer, opened.record.options, opened.projection_of(state))


def load_model(folder: Path, tokenizer_dir: Path | None = None) -> tuple[Encoder, Tokenizer]:
    """Encoder and tokenizer of an XLM-R-shaped model, see `load`."""
    own = _load_own(folder, tokenizer_dir, with_head=False)
    return own.encoder, own.tokenizer


def load_masked_lm(folder: Path, tokenizer_dir: Path | None = None) -> tuple[Encoder, MaskedLMHead, Tokenizer]:
    """`load_model` with the masked-LM head; ValueError also where the model has none."""
    own = _load_own(folder, tokenizer_dir, with_head=True)
    return own.encoder, head_of(own.head, folder), own.tokenizer


def head_of(head: MaskedLMHead | None, folder: Path) -> MaskedLMHead:
    """The masked-LM head that was found; ValueError where there is none."""
    if head is None:
        raise ValueError(f"{folder}: has no masked-LM head; give a model that was trained with MLM or TLM")
    return head


def longest_side(sizes: Shape, encoding: str = "joint", template: Template = XLM_R) -> int:
    """Tokens of a side so that what is encoded at once, a pair or (`separate`) a side, fits the model's positions."""
    if encoding == "joint":
        return (sizes.longest - template.pair.added) // 2
    return sizes.longest - template.alone.added
