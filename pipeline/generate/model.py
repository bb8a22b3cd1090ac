"""A Hugging Face folder with an encoder and a decoder, ready to write: its modules, its tokenizer, its languages.

Knows files and Hugging Face's classes; nothing of how outputs are searched. Code of a folder's own is never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, EncoderDecoderModel
from transformers.utils import logging

from data_prep.files import read_json
from data_prep.tokenizers.hub import first_line
from data_prep.tokenizers.tokenizer import Tokenizer, read_tokenizer
from data_prep.tokenizers.tokenizer_json import JSON_NAME
from pipeline.model.decoder_layer import INTERLEAVED_KIND
from pipeline.model.interleaved_lm import register
from pipeline.weights.hub import local_folder
from pipeline.weights.hugging_face import CONFIG_NAME
from pipeline.weights.opening import Kind, kind_of
from pipeline.weights.text_to_text_record import TextToTextRecord, text_to_text_of_config

WRITES = "encoder-decoder"
PART = "xlm-roberta"
_DECODERS = (PART, INTERLEAVED_KIND)
_ADVICE = "give the export of a run with a decoder"
_RESERVED_POSITIONS = 2  # XLM-R counts positions from the padding's id on


@dataclass
class TextModel:
    """An encoder with a decoder, in eval mode, and what stands between it and text."""

    folder: Path
    module: Any
    """An `EncoderDecoderModel`; of type Any, as is its tokenizer, because its own types say less than is known here."""
    tokenizer: Any
    """Hugging Face's, with the words for spans and languages."""
    pieces: Tokenizer
    """The same without these: what encodes texts, in which `<s>` or `<2de>` are text as in any token file."""
    record: TextToTextRecord

    @property
    def longest_source(self) -> int:
        """Tokens that the encoder takes, special ones included."""
        return int(self.module.config.encoder.max_position_embeddings) - _RESERVED_POSITIONS

    @property
    def longest_target(self) -> int:
        """Tokens that the decoder takes, what it begins with included."""
        return int(self.module.config.decoder.max_position_embeddings) - _RESERVED_POSITIONS

    @property
    def words(self) -> int:
        """V: among which the decoder chooses."""
        return int(self.module.config.decoder.vocab_size)

    @property
    def end(self) -> int:
        """`</s>`, after which nothing is written."""
        return int(self.tokenizer.eos_token_id)

    @property
    def padding(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def check_language(self, to: str | None, option: str = "--to") -> None:
        """ValueError where the model cannot be told to write this language; None: it is not told."""
        languages = self.record.languages
        if to is None and languages:
            raise ValueError(f"{option}: say which language is to be written; {self.folder} has {', '.join(languages)}")
        if to is not None and not languages:
            raise ValueError(f"{option} {to}: {self.folder} has no tags of languages; leave {option} out")
        if to is not None and to not in languages:
            raise ValueError(f"{option} {to}: {self.folder} has no tag of it; choose of {', '.join(languages)}")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, no special ones."""
        return self.pieces.encode_batch(list(texts))

    def special(self, to: str | None) -> int:
        """Special tokens around a source: `<s>`, `</s>` and, where it stands there, the tag."""
        return 2 + (to is not None and self.record.tag == "source")

    def source(self, ids: Sequence[int], to: str | None, longest: int | None = None) -> list[int]:
        """What the encoder reads of a text's ids, which are cut at their end where that were more than `longest` tokens."""
        tag = [self._tag(to)] if to is not None and self.record.tag == "source" else []
        room = (longest or self.longest_source) - self.special(to)
        return [int(self.tokenizer.bos_token_id), *tag, *ids[:room], self.end]

    def start(self, to: str | None) -> int:
        """What the decoder begins with."""
        if to is not None and self.record.tag == "target":
            return self._tag(to)
        return int(self.tokenizer.bos_token_id)

    def _tag(self, language: str) -> int:
        return _id_of(self.tokenizer, f"<2{language}>")

    def text(self, ids: Sequence[int]) -> str:
        """The text of what was written, without special words, on one line: white space is a space, as tokenizers read it."""
        special = {*self.tokenizer.all_special_ids}
        text: str = self.tokenizer.decode([i for i in ids if i not in special], clean_up_tokenization_spaces=False)
        return " ".join(text.split())

    def writable(self, among: Sequence[str] | None = None) -> Tensor:
        """bool, V: what may be written, `</s>` and all pieces but the special ones, or those of `among`'s texts alone."""
        allowed_V = torch.zeros(self.words, dtype=torch.bool)
        if among is None:
            allowed_V[: len(self.tokenizer)] = True
        else:
            allowed_V[sorted({i for ids in self.encode(among) for i in ids})] = True
        added = [i for i in self.tokenizer.added_tokens_decoder if i < self.words]
        allowed_V[[*self.tokenizer.all_special_ids, *added]] = False
        allowed_V[self.end] = True
        return allowed_V


def load_text_model(folder: Path) -> TextModel:
    """The model of a folder, in fp32 on the CPU, or of the hub by its name.

    Raises:
        ValueError: there is none, it has no decoder, or its files do not fit each other; one line.
    """
    folder = local_folder(folder)
    kind = kind_of(folder)
    if kind is not Kind.HUGGING_FACE:
        raise ValueError(
            f"{folder}: is a {kind.value}; make a Hugging Face folder of it first: python -m pipeline export {folder} HF_DIR"
        )
    content = read_json(folder / CONFIG_NAME, _ADVICE)
    _check_kind(content, folder)
    record = text_to_text_of_config(content, folder / CONFIG_NAME) or TextToTextRecord()
    module, (tokenizer, pieces) = _module_of(folder), _tokenizers_of(folder)
    words = module.config.decoder.vocab_size
    if not words // 2 < len(tokenizer) <= words:
        raise ValueError(
            f"{folder}: the model has {words} words, its tokenizer {len(tokenizer)}; give the tokenizer that it was "
            "trained with"
        )
    for language in record.languages:
        _id_of(tokenizer, f"<2{language}>")
    return TextModel(folder, module, tokenizer, pieces, record)


def _check_kind(content: dict[str, Any], folder: Path) -> None:
    kind = content.get("model_type")
    if kind == PART:
        raise ValueError(f"{folder}: is an encoder, which writes nothing; {_ADVICE}")
    parts = [(content.get(name) or {}).get("model_type") for name in ("encoder", "decoder")]
    if kind != WRITES or parts[0] != PART or parts[1] not in _DECODERS:
        of = f" of {' and '.join(map(str, parts))}" if kind == WRITES else ""
        raise ValueError(
            f"{folder / CONFIG_NAME}: model_type is {kind!r}{of}; {WRITES} of {PART} parts is taken: {_ADVICE}"
        )


def _module_of(folder: Path) -> Any:
    kind: Any = EncoderDecoderModel
    register()
    logging.disable_progress_bar()  # of reading weights
    try:
        module, loading = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # of any kind: whatever a library that reads a damaged file raises
        raise ValueError(f"{folder}: its model cannot be read ({first_line(error)}); export it again") from None
    module.encoder.pooler = None  # which nobody reads, so that exports leave it out
    if missing := sorted(name for name in loading["missing_keys"] if not name.startswith("encoder.pooler.")):
        raise ValueError(f"{folder}: {missing[0]} is missing, and {len(missing)} in all; export the model again")
    return module.eval()


def _tokenizers_of(folder: Path) -> tuple[Any, Tokenizer]:
    pieces = read_tokenizer(folder / JSON_NAME)
    try:
        found = AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise ValueError(f"{folder}: its tokenizer cannot be read ({first_line(error)}); export it again") from None
    if None in (found.bos_token_id, found.eos_token_id, found.pad_token_id):
        raise ValueError(f"{folder}: its tokenizer lacks <s>, </s> or <pad>; export it again")
    return found, pieces


def _id_of(tokenizer: Any, word: str) -> int:
    found = tokenizer.convert_tokens_to_ids(word)
    if found is None or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no word {word}, which {CONFIG_NAME} says it has; export the model again")
    return int(found)
