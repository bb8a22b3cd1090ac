"""A model's own tokenizer, of whatever kind, behind the interface of ours: ids of words and of sentences.

Knows Transformers' fast tokenizers; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_prep.tokenizers.hub import first_line
from data_prep.tokenizers.template import Frame, Template

PROBES = ("a", "the", "in", "1", "и", "的")
"""Words by which is found what a tokenizer does with spaces and where it puts special tokens."""


class TransformersTokenizer:
    """Words and sentences to ids, as the tokenizer's own model has seen them.

    A word that is not the first of a text has a space before it in most byte-level vocabularies and not in others; every word
    is encoded as it is there. Names of special tokens in a text are text. A word of which nothing is left becomes the unknown
    word.

    Raises:
        ValueError: the tokenizer is none that can be used; one line that begins with `name`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{name}: {type(tokenizer).__name__} has no fast version, which is needed; put a tokenizer.json there"
            )
        self.vocab_size = len(tokenizer)
        self.template = _template_of(tokenizer, name)
        backend: Any = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._before = " " if _wants_space(self._ids) else ""
        candidates = (tokenizer.unk_token_id, tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
        self._nothing = [next((i for i in candidates if i is not None), 0)]

    def encode(self, text: str) -> list[int]:
        """Ids of a sentence, no specials."""
        return self._ids(text) or self._nothing

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Encode each word by itself, as SimAlign does.

        Returns:
            The ids of all words end to end, and for each id the index of its word.
        """
        ids: list[int] = []
        word_of_id: list[int] = []
        for index, word in enumerate(words):
            of_word = self._ids(self._before + word) or self._nothing
            ids += of_word
            word_of_id += [index] * len(of_word)
        return ids, word_of_id

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def read_transformers_tokenizer(folder: Path, rows: int) -> TransformersTokenizer:
    """The tokenizer of a Hugging Face folder whose model has so many word embeddings; code of a folder's own is never run.

    Raises:
        ValueError: there is none, or it is not the model's.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any kind: whatever a library that converts tokenizers raises
        raise ValueError(
            f"{folder}: its tokenizer cannot be read ({first_line(error)}); put the model's tokenizer.json there, or give "
            "--tokenizer DIR"
        ) from None
    found = TransformersTokenizer(tokenizer, str(folder))
    if not rows // 2 < found.vocab_size <= rows:
        raise ValueError(
            f"{folder}: the model has {rows} words, its tokenizer {found.vocab_size}; give the tokenizer that the model was "
            "trained with"
        )
    return found


def _wants_space(ids_of: Any) -> bool:
    """Whether a word in the middle of a text is encoded as alone, or as with a space before it."""
    for word in PROBES:
        whole, alone, spaced = (ids_of(text) for text in (f"{word} {word}", word, f" {word}"))
        if alone == spaced or whole == alone + alone:
            continue
        if whole in (alone + spaced, spaced + spaced):
            return True
    return False


def _template_of(tokenizer: PreTrainedTokenizerBase, name: str) -> Template:
    for word in PROBES:
        alone, pair = tokenizer([word], is_split_into_words=True), tokenizer([word], [word], is_split_into_words=True)
        frames = _frame_of(alone, 1), _frame_of(pair, 2)
        if frames[0] is not None and frames[1] is not None:
            return Template(frames[0], frames[1])
    raise ValueError(f"{name}: its tokenizer has no piece for any of {', '.join(PROBES)}; give --tokenizer DIR")


def _frame_of(encoded: Any, sides: int) -> Frame | None:
    """The special tokens of an encoded word, or of a pair of them; None: a side has no tokens."""
    side_of_token = encoded.sequence_ids(0)
    if set(side_of_token) - {None} != set(range(sides)):
        return None
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    firsts = [side_of_token.index(side) for side in range(sides)]
    ends = [len(side_of_token) - side_of_token[::-1].index(side) for side in range(sides)]
    bounds = list(zip([0, *ends], [*firsts, len(ids)], strict=True))
    special = tuple(tuple(ids[start:end]) for start, end in bounds)
    if types is None or not any(types):
        return Frame(special)
    return Frame(
        special, tuple(tuple(types[start:end]) for start, end in bounds), tuple(types[first] for first in firsts)
    )
