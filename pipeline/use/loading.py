"""A trained model and its tokenizer from whatever a user has: a Hugging Face folder, a run folder or a checkpoint.

Knows folders; nothing of what the model is used for.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data_prep.tokenizer import MODEL_NAME, Tokenizer
from pipeline import checkpoint
from pipeline.hugging_face import load_encoder, load_head, read_config, read_state
from pipeline.model import Encoder, EncoderConfig
from pipeline.objectives.masked_lm import MaskedLMHead

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_model(folder: Path, tokenizer_dir: Path | None = None) -> tuple[Encoder, Tokenizer]:
    """The encoder of a folder, in eval mode, and its SentencePiece tokenizer (`tokenizer_dir` goes before the folder's).

    folder: of an XLM-R-shaped Hugging Face model with its SentencePiece file; or a run's, for its latest good checkpoint;
        or one of its checkpoints/step_*, with the tokenizer of the run's DATA_DIR.

    Raises:
        ValueError: the folder is none of these, or the tokenizer is not the model's.
    """
    encoder, _, tokenizer = _load(folder, tokenizer_dir, with_head=False)
    return encoder, tokenizer


def load_masked_lm(folder: Path, tokenizer_dir: Path | None = None) -> tuple[Encoder, MaskedLMHead, Tokenizer]:
    """`load_model` with the masked-LM head; ValueError also where the model has none."""
    encoder, head, tokenizer = _load(folder, tokenizer_dir, with_head=True)
    if head is None:
        raise ValueError(f"{folder}: has no masked-LM head; give a model that was trained with MLM or TLM")
    return encoder, head, tokenizer


def read_folder(folder: Path) -> tuple[EncoderConfig, dict[str, Tensor], Path]:
    """Sizes, fp32 tensors under Hugging Face's names and the place of the SentencePiece file, for any folder as above.

    Raises:
        ValueError: the folder is none of these.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a Hugging Face model folder, a run folder or a checkpoint")
    if (folder / checkpoint.MANIFEST).is_file() or checkpoint.folder_of(folder).is_dir():
        return _read_checkpoint(folder)
    return read_config(folder), read_state(folder), folder / MODEL_NAME


def _load(folder: Path, tokenizer_dir: Path | None, with_head: bool) -> tuple[Encoder, MaskedLMHead | None, Tokenizer]:
    config, state, tokenizer_path = read_folder(folder)
    encoder = Encoder(config)
    load_encoder(encoder, state, folder)
    head = None
    if with_head:
        head = MaskedLMHead(encoder.word, config.norm_eps, config.init_std).eval()
        head = head if load_head(head, state, folder) else None
    tokenizer = _load_tokenizer(tokenizer_path, tokenizer_dir)
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"{folder}: the model has {config.vocab_size} words, its tokenizer {tokenizer.vocab_size}; "
            "give the tokenizer that the model was trained with"
        )
    return encoder.eval(), head, tokenizer


def _read_checkpoint(folder: Path) -> tuple[EncoderConfig, dict[str, Tensor], Path]:
    # Only here: DeepSpeed takes seconds to import.
    from pipeline.use.export import full_state, hugging_face_parts

    found, _ = checkpoint.find(str(folder), folder)
    assert found is not None, "find raises where there is nothing"
    info = checkpoint.read_info(found)
    tokenizer_path = Path(info.config["data"]["path"]) / "tokenizer" / MODEL_NAME
    state = full_state(found, info)
    return EncoderConfig(**info.encoder), hugging_face_parts(state)[0], tokenizer_path


def _load_tokenizer(path: Path, tokenizer_dir: Path | None) -> Tokenizer:
    if tokenizer_dir is not None:
        return Tokenizer.load(tokenizer_dir)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; put the model's SentencePiece file there, or give --tokenizer DIR")
    return Tokenizer(path.read_bytes(), str(path))


def longest_side(sizes: EncoderConfig, encoding: str = "joint") -> int:
    """Tokens of a side so that what is encoded at once, a pair or (`separate`) a side, fits the model's positions."""
    positions = sizes.positions - 2
    return (positions - 3) // 2 if encoding == "joint" else positions - 2
