"""What `model.init` gives a training: sizes and weights of a pretrained model, and whether the token files are made for it.

Knows what a training asks of a model; `opening` knows where models lie.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.hub import hub_name
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer, read_tokenizer
from data_prep.tokenizers.tokenizer_json import JSON_NAME
from pipeline.model.encoder import EncoderConfig
from pipeline.weights.hub import local_folder, named
from pipeline.weights.hugging_face import DROPOUTS
from pipeline.weights.opening import Kind, Weights, find_tokenizer, kind_of, open_weights
from pipeline.weights.vocabulary import added_words, explains


def read_pretrained(init: Path, dropout: float) -> tuple[EncoderConfig, dict[str, Tensor], list[str]]:
    """Sizes of a pretrained model, its fp32 tensors as `Weights.state` gives them, and its own words; ValueError of one line.

    The words are those that it has beyond its tokenizer's, as a model with a decoder does: the last rows of its tables, which
    the sizes leave out.

    What the user should know of the model is said once, by rank 0.
    """
    with named():
        opened = open_weights(init)
        for note in opened.notes:
            if not dist.is_initialized() or dist.get_rank() == 0:
                print(f"note: {note}", file=sys.stderr)
        return _without_words(opened, dropout), opened.state(), opened.words


def read_sizes(init: Path, dropout: float) -> EncoderConfig:
    """Sizes alone, for which no weights are read but fairseq's."""
    with named():
        return _without_words(open_weights(init, whole=False), dropout)


def _without_words(opened: Weights, dropout: float) -> EncoderConfig:
    return replace(opened.sizes, dropout=dropout, vocab_size=opened.sizes.vocab_size - len(opened.words))


def dropouts_of(init: Path | None) -> dict[str, float]:
    """Dropout rates that an export of what is trained from `init` (None: from scratch) gets; XLM-R's where none are named.

    A run hands on those of the model that it began with.
    """
    if init is None or kind_of(init) is Kind.FAIRSEQ:  # which names none, and is long to read
        return DROPOUTS
    return open_weights(init, whole=False).dropouts or DROPOUTS


def has_decoder(init: Path) -> bool:
    """Whether a decoder comes with a model."""
    return kind_of(init) is not Kind.FAIRSEQ and open_weights(init, whole=False).decoder is not None


def check_vocabulary(init: Path, rows: int, data: Path, known: int) -> None:
    """ValueError where the model's vocabulary is not that of the token files, with no more than padding behind it."""
    added = added_words(local_folder(init, weights=False), known)
    if added:
        raise ValueError(
            f"model.init = {init}: its tokenizer has added words ({', '.join(list(added)[:3])}), which token files "
            "cannot hold and training would lose; give a model without them"
        )
    if not explains(rows, known, 0):
        raise ValueError(
            f"model.init = {init}: vocabulary of {rows}, the token files in data.path = {data} have {known}; "
            "binarize with this model's own tokenizer"
        )


def made_with(manifest: Manifest, tokenizer: Tokenizer) -> bool:
    """Whether token files hold this tokenizer's ids."""
    if manifest.tokenizer_sha256 == tokenizer.sha256:
        return True
    folder = manifest.tokenizer_dir
    return folder.is_dir() and tokenizer.gives_ids_of(Tokenizer.load(folder).identity())


def check_tokenizer(init: Path | None, manifest: Manifest) -> list[str]:
    """See that the token files were made with the tokenizer of the model that training begins with; notes for the user.

    Raises:
        ValueError: they were made with another one.
    """
    if init is None or (hub_name(init) is None and not init.exists()):  # who reads it says so
        return []
    with named():
        path = find_tokenizer(init)
    if path is None:
        return [f"{init} has neither {MODEL_NAME} nor {JSON_NAME}: whether the token files fit it cannot be checked"]
    if made_with(manifest, read_tokenizer(path)):
        return []
    source = path.parent if hub_name(init) is None else init
    mend = str(path) if path.is_dir() else f"python -m data_prep tokenizer import {source} --out DIR"
    raise ValueError(
        f"model.init = {init}: {path.name} is another tokenizer than that of data.path = {manifest.data_dir}, so that ids "
        f"would mean other words; binarize with this model's own: {mend}"
    )
