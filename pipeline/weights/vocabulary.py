"""Rows of a model's vocabulary beyond those of its tokenizer's pieces: words that were added, and padding.

Knows the files of a Hugging Face folder that name added words; nothing of weights.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from data_prep.tokenizers.tokenizer_json import JSON_NAME

PADDED_TO = 8
MOST_PADDING = 128
"""Vocabularies are padded for the hardware's sake, to a multiple of 8, 64 or 128."""


def added_words(folder: Path, known: int) -> dict[str, int]:
    """Words that a Hugging Face folder's tokenizer has beyond the model's `known` ones, with their ids.

    Of all the files that may tell; one that is damaged tells nothing.
    """
    added: dict[str, int] = {}
    for name in ("tokenizer_config.json", "added_tokens.json", JSON_NAME):
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
            content: Any = json.loads((folder / name).read_text(encoding="utf-8"))
            if name == JSON_NAME:
                added |= {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
            elif name == "added_tokens.json":
                added |= {str(word): int(number) for word, number in content.items()}
            else:
                tokens = content.get("added_tokens_decoder", {})
                added |= {str(token["content"]): int(number) for number, token in tokens.items()}
    return {word: number for word, number in added.items() if number >= known}


def explains(rows: int, known: int, added: int) -> bool:
    """Whether a vocabulary of `rows` is that of a tokenizer of `known` words, with so many added ones, and perhaps padding."""
    padding = rows - known - added
    return padding == 0 or (0 < padding < MOST_PADDING and rows % PADDED_TO == 0)
