"""What fine-tuning starts from: the encoder of a folder under a fresh head, and its tokenizer.

Knows folders and Hugging Face's classes; nothing of tasks' data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, XLMRobertaConfig

from data_prep.tokenizer import Tokenizer
from pipeline.hugging_face import write_config
from pipeline.model import EncoderConfig
from pipeline.use.loading import read_folder

PREFIX = "roberta."


@dataclass
class Start:
    """A pretrained encoder: sizes, fp32 tensors under Hugging Face's names, tokenizer."""

    folder: Path
    sizes: EncoderConfig
    state: dict[str, Tensor]
    tokenizer: PreTrainedTokenizerBase

    @property
    def longest(self) -> int:
        """Tokens that fit the positions, special tokens included."""
        return self.sizes.positions - 2

    def model(self, kind: Any, labels: list[str], dropout: float) -> PreTrainedModel:
        """The encoder under a fresh head of the class `kind`, drawn by PyTorch's seed.

        Raises:
            ValueError: a tensor is missing or of another size.
        """
        settings = write_config(replace(self.sizes, dropout=dropout))
        if labels:
            settings |= {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        config = XLMRobertaConfig(**settings)
        model: PreTrainedModel = kind.from_config(config)
        for name, tensor in model.state_dict().items():
            if not name.startswith(PREFIX):
                continue
            found = self.state.get(name, self.state.get(name.removeprefix(PREFIX)))
            if found is None or found.shape != tensor.shape:
                what = "lacks it" if found is None else f"has it as {list(found.shape)}"
                raise ValueError(f"{self.folder}: {name} is wanted as {list(tensor.shape)}, the folder {what}")
            tensor.copy_(found)
        return model


def read_start(folder: Path, tokenizer_dir: Path | None = None) -> Start:
    """Read a Hugging Face folder of an XLM-R-shaped model, or a run's folder or checkpoint.

    The tokenizer is `tokenizer_dir`'s; else the folder's SentencePiece model; else its `tokenizer.json`.

    Raises:
        ValueError: the folder is none of these, or the tokenizer is not the model's.
    """
    sizes, state, path = read_folder(folder)
    tokenizer = _tokenizer(folder, path, tokenizer_dir)
    if len(tokenizer) != sizes.vocab_size:
        raise ValueError(
            f"{folder}: the model has {sizes.vocab_size} words, its tokenizer {len(tokenizer)}; "
            "give the tokenizer that the model was trained with"
        )
    return Start(folder, sizes, state, tokenizer)


def _tokenizer(folder: Path, path: Path, tokenizer_dir: Path | None) -> PreTrainedTokenizerBase:
    # Only here: DeepSpeed, which export knows, takes seconds to import.
    from pipeline.use.export import hugging_face_tokenizer

    if tokenizer_dir is not None:
        return hugging_face_tokenizer(Tokenizer.load(tokenizer_dir))
    if path.is_file():
        return hugging_face_tokenizer(Tokenizer(path.read_bytes(), str(path)))
    if (folder / "tokenizer.json").is_file():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer
    raise ValueError(f"{path}: no such file; put the model's SentencePiece file there, or give --tokenizer DIR")
