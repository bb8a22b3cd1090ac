"""What `model.init` may name, behind one entry: a Hugging Face folder, or a fairseq checkpoint or its folder.

Knows which reader a path is for; the readers know their formats.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer, read_tokenizer
from data_prep.tokenizers.tokenizer_json import JSON_NAME
from pipeline.model.encoder import EncoderConfig
from pipeline.weights import hugging_face
from pipeline.weights.fairseq import fairseq_file, read_fairseq
from pipeline.weights.vocabulary import added_words, explains

DROPOUTS = {"hidden_dropout_prob": hugging_face.DROPOUT, "attention_probs_dropout_prob": hugging_face.DROPOUT}


def read_pretrained(init: Path, dropout: float) -> tuple[EncoderConfig, dict[str, Tensor]]:
    """Sizes of a pretrained model, and its fp32 tensors named as in `XLMRobertaForMaskedLM`; ValueError of one line."""
    file = fairseq_file(init)
    if file is not None:
        return read_fairseq(file, dropout)
    return hugging_face.read_config(init, dropout), hugging_face.read_state(init)


def read_sizes(init: Path, dropout: float) -> EncoderConfig:
    """Sizes alone, for which a Hugging Face folder's weights are not read."""
    file = fairseq_file(init)
    return hugging_face.read_config(init, dropout) if file is None else read_fairseq(file, dropout)[0]


def dropouts_of(init: Path | None) -> dict[str, float]:
    """Dropout rates that an export of what is trained from `init` (None: from scratch) gets; XLM-R's where none are named."""
    if init is None or fairseq_file(init) is not None:
        return DROPOUTS
    return hugging_face.read_dropouts(init)


def check_vocabulary(init: Path, rows: int, data: Path, known: int) -> None:
    """ValueError where the model's vocabulary is not that of the token files, with no more than padding behind it."""
    added = added_words(init, known)
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
    if init is None or not init.exists():  # who reads it says so
        return []
    folder = init if init.is_dir() else init.parent
    files = [folder / name for name in (MODEL_NAME, JSON_NAME) if (folder / name).is_file()]
    if not files:
        return [f"{init} has neither {MODEL_NAME} nor {JSON_NAME}: whether the token files fit it cannot be checked"]
    own = read_tokenizer(files[0])
    if made_with(manifest, own):
        return []
    raise ValueError(
        f"model.init = {init}: {files[0].name} is another tokenizer than that of data.path = {manifest.data_dir}, so that ids "
        f"would mean other words; binarize with this model's own: python -m data_prep tokenizer import {folder} --out DIR"
    )
