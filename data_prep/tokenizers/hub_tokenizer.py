"""The tokenizer of a model of the hub, as a folder that is read like any other.

Knows the names of tokenizers' files; `hub` fetches them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from data_prep.tokenizers import hub
from data_prep.tokenizers.tokenizer import META_NAME, MODEL_NAME
from data_prep.tokenizers.tokenizer_json import JSON_NAME

TOKENIZER_FILES = (
    MODEL_NAME,
    JSON_NAME,
    META_NAME,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "spiece.model",
    "tokenizer.model",
)
"""The files in which Hugging Face's tokenizers of any kind lie."""


def tokenizer_place(place: Path) -> Path:
    """A place that `read_tokenizer` reads; the tokenizer's files of a model of the hub, ORG/NAME, are fetched.

    Raises:
        ValueError: see `hub.fetch`.
    """
    name = hub.hub_name(place)
    wanted = f"give a SentencePiece file, a {JSON_NAME}, or a folder or a model of the hub with either"
    return place if name is None else hub.fetch(name, _chosen_of_hub, TOKENIZER_FILES, wanted)


def _chosen_of_hub(names: Collection[str]) -> list[str]:
    if MODEL_NAME not in names and JSON_NAME not in names:
        raise ValueError(f"has neither {MODEL_NAME} nor {JSON_NAME}; give a model with XLM-R's tokenizer")
    return [name for name in names if name in TOKENIZER_FILES]
