"""A trained model and its tokenizer from whatever a user has: a Hugging Face folder, a run folder or a checkpoint.

Knows folders; nothing of what the model is used for.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from data_prep.tokenizers.tokenizer import GET_MODEL, MODEL_NAME, Tokenizer, read_tokenizer
from data_prep.tokenizers.tokenizer_json import JSON_NAME
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import MANIFEST, CheckpointInfo
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.heads import MaskedLMHead
from pipeline.settings.align_options import AlignOptions
from pipeline.weights.hugging_face import (
    CONFIG_NAME,
    build_encoder,
    load_head,
    read_config,
    read_config_json,
    read_dropouts,
    read_state,
)
from pipeline.weights.model_record import Record, record_of_checkpoint, record_of_config
from pipeline.weights.vocabulary import added_words, explains

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class ModelFolder:
    """What a folder holds of a model."""

    folder: Path
    sizes: EncoderConfig
    state: dict[str, Tensor]
    """fp32, under Hugging Face's names."""
    tokenizer_path: Path | None
    """A SentencePiece model, a tokenizer.json, or a folder with either; None: there is none."""
    record: Record
    dropouts: dict[str, float]

    def tokenizer(self, chosen: Path | None = None) -> Tokenizer:
        """The model's tokenizer, or the one of the folder that was chosen instead.

        Raises:
            ValueError: there is none, or it is not the model's.
        """
        if chosen is None and self.tokenizer_path is None:
            raise ValueError(
                f"{self.folder}: has neither {MODEL_NAME} nor {JSON_NAME}; put the model's SentencePiece file there, or give "
                "--tokenizer DIR"
            )
        path = chosen or self.tokenizer_path
        assert path is not None
        tokenizer = read_tokenizer(path) if chosen is None else Tokenizer.load(chosen)
        self._check(tokenizer, path)
        return tokenizer

    def _check(self, tokenizer: Tokenizer, path: Path) -> None:
        wanted = self.record.tokenizer
        if wanted is not None and not tokenizer.gives_ids_of(wanted):
            raise ValueError(
                f"{path}: another tokenizer than the model was trained with (sha256 {tokenizer.sha256[:12]}…, the model's "
                f"is {wanted.get('sha256', '')[:12]}…); give the folder with the model's own by --tokenizer DIR"
            )
        known = tokenizer.vocab_size
        rows = self.sizes.vocab_size
        if rows != known and not explains(rows, known, len(added_words(self.folder, known))):
            raise ValueError(
                f"{self.folder}: the model has {self.sizes.vocab_size} words, its tokenizer {known}; "
                "give the tokenizer that the model was trained with"
            )

    def notes(self, tokenizer: Tokenizer) -> list[str]:
        """What a user may not expect of the vocabulary."""
        rows = self.sizes.vocab_size - tokenizer.vocab_size
        added = list(added_words(self.folder, tokenizer.vocab_size)) if rows else []
        notes = []
        if added:
            notes.append(
                f"{self.folder}: {', '.join(added[:5])}{' …' if len(added) > 5 else ''}: words that were added to the "
                "tokenizer are encoded as other words are, by the model's pieces"
            )
        if rows > len(added):
            notes.append(f"{self.folder}: the vocabulary's last {rows - len(added)} rows are padding")
        return notes


@dataclass
class LoadedModel:
    """A model to use, in eval mode."""

    encoder: Encoder
    head: MaskedLMHead | None
    tokenizer: Tokenizer
    recorded: AlignOptions | None
    """How words align best with it, where it says so."""


def load(folder: Path, tokenizer_dir: Path | None = None, with_head: bool = False) -> LoadedModel:
    """The encoder of a folder, its SentencePiece tokenizer (`tokenizer_dir` goes before the folder's), and its record.

    folder: of an XLM-R-shaped Hugging Face model with its tokenizer; or a run's, for its latest good checkpoint;
        or one of its checkpoints/step_*.

    Raises:
        ValueError: the folder is none of these, or the tokenizer is not the model's.
    """
    content = read_folder(folder)
    encoder = build_encoder(content.sizes, content.state, folder)
    head = None
    if with_head:
        head = MaskedLMHead(encoder.word, content.sizes.norm_eps, content.sizes.init_std).eval()
        head = head if load_head(head, content.state, folder) else None
    tokenizer = content.tokenizer(tokenizer_dir)
    for note in content.notes(tokenizer):
        print(f"note: {note}", file=sys.stderr)
    return LoadedModel(encoder.eval(), head, tokenizer, content.record.options)


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


def read_folder(folder: Path) -> ModelFolder:
    """All that a folder as above holds.

    Raises:
        ValueError: the folder is none of these.
    """
    wanted = "give a Hugging Face model folder, a run folder or a checkpoint"
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; {wanted}")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {wanted} ({GET_MODEL})")
    if checkpoint.is_run(folder):
        return _read_checkpoint(folder)
    content = read_config_json(folder)
    if checkpoint.folder_of(folder).is_dir():
        print(
            f"note: {folder}: the Hugging Face model is taken, not the checkpoints beside it; give one of "
            f"{checkpoint.folder_of(folder)}/step_* for those",
            file=sys.stderr,
        )
    files = [folder / name for name in (MODEL_NAME, JSON_NAME) if (folder / name).is_file()]
    return ModelFolder(
        folder,
        read_config(folder),
        read_state(folder),
        files[0] if files else None,
        record_of_config(content, folder / CONFIG_NAME),
        read_dropouts(folder),
    )


def _read_checkpoint(folder: Path) -> ModelFolder:
    # Only here: most models are Hugging Face's.
    from pipeline.weights.consolidate import full_state, hugging_face_parts

    found, info, skipped = checkpoint.find_model(folder)
    for note in skipped:
        print(f"note: {note}", file=sys.stderr)
    state = hugging_face_parts(full_state(found, info))[0]
    return ModelFolder(
        folder,
        sizes_of(found, info),
        state,
        checkpoint_tokenizer(found, info),
        record_of_checkpoint(info, found),
        info.dropouts,
    )


def sizes_of(found: Path, info: CheckpointInfo) -> EncoderConfig:
    """The sizes in a checkpoint's manifest; ValueError where they are none."""
    if unknown := info.encoder.keys() - {known.name for known in fields(EncoderConfig)}:
        raise ValueError(f"{found / MANIFEST}: encoder.{min(unknown)}: unknown; give another checkpoint")
    try:
        return TypeAdapter(EncoderConfig).validate_json(json.dumps(info.encoder), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{found / MANIFEST}: encoder.{where}: {first['msg']}; give another checkpoint") from None


def checkpoint_tokenizer(found: Path, info: CheckpointInfo) -> Path | None:
    """The folder with a checkpoint's tokenizer: the run's own copy, else the one of its token files; None: neither is there."""
    data = checkpoint.data_of(info)
    places = [checkpoint.tokenizer_of(checkpoint.run_of(found)), *([] if data is None else [data / "tokenizer"])]
    return next((place for place in places if place.is_dir()), None)


def longest_side(sizes: EncoderConfig, encoding: str = "joint") -> int:
    """Tokens of a side so that what is encoded at once, a pair or (`separate`) a side, fits the model's positions."""
    positions = sizes.positions - 2
    return (positions - 3) // 2 if encoding == "joint" else positions - 2
