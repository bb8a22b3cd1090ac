"""What fine-tuning starts from: the encoder of a folder under a fresh head, and its tokenizer.

Knows folders and Hugging Face's classes; nothing of tasks' data.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, XLMRobertaConfig

from data_prep.tokenizers.tokenizer_json import JSON_NAME
from pipeline.finetune.tasks.task import Start
from pipeline.model.encoder import EncoderConfig
from pipeline.weights.hugging_face import check_plain, write_config
from pipeline.weights.hugging_face_tokenizer import hugging_face_tokenizer
from pipeline.weights.opening import Kind, Weights, open_weights
from pipeline.weights.vocabulary import explains

PREFIX = "roberta."


@dataclass
class EncoderStart(Start):
    """A pretrained encoder: its sizes, and fp32 tensors under Hugging Face's names."""

    folder: Path
    sizes: EncoderConfig
    state: dict[str, Tensor]

    @property
    def longest(self) -> int:
        """Tokens that fit the positions, special tokens included."""
        return self.sizes.longest

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.state

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


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A hash of all tensors, by which a model is known again."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read_start(folder: Path, tokenizer_dir: Path | None = None) -> EncoderStart:
    """Read what `open_weights` takes.

    The tokenizer is `tokenizer_dir`'s, else the folder's.

    Raises:
        ValueError: the folder is none of these, or the tokenizer is not the model's.
    """
    opened = open_weights(folder)
    check_plain(opened.sizes, folder)
    for note in opened.notes:
        print(f"note: {note}", file=sys.stderr)
    path = opened.tokenizer_path
    of_hugging_face = opened.kind is Kind.HUGGING_FACE and path is not None and path.name == JSON_NAME
    if tokenizer_dir is None and of_hugging_face:
        return _with_own_tokenizer(opened)
    own = opened.tokenizer(tokenizer_dir)
    tokenizer = hugging_face_tokenizer(own, opened.sizes.longest)
    return EncoderStart(tokenizer, own, folder, opened.sizes, opened.state())


def _with_own_tokenizer(opened: Weights) -> EncoderStart:
    """Hugging Face's tokenizer as it lies in the folder, whatever its kind, with all its added words."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(opened.folder, local_files_only=True)
    if not explains(opened.sizes.vocab_size, len(tokenizer), 0):
        raise ValueError(
            f"{opened.folder}: the model has {opened.sizes.vocab_size} words, its tokenizer {len(tokenizer)}; "
            "give the tokenizer that the model was trained with"
        )
    own = None
    with contextlib.suppress(ValueError):  # of a kind that only fine-tuning can use
        own = opened.tokenizer()
    return EncoderStart(tokenizer, own, opened.folder, opened.sizes, opened.state())
