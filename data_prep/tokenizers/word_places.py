"""Which word of its line each token belongs to, where lines are encoded whole: by the bytes that a piece stands for.

Words are what white space separates in the line itself, as aligners count them; the tokenizer may put spaces elsewhere (it
makes one of U+00A0), or none at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizers.tokenizer import Tokenizer

_WORD = re.compile(rb"\S+")  # of bytes: ASCII white space alone, as `bytes.split`


def words_of_tokens(tokenizer: Tokenizer, lines: Sequence[bytes]) -> list[NDArray[np.int64]]:
    """For each line, the word of each of its tokens, int64 (L,), rising; tokens are those of `Tokenizer.encode_flat`.

    A lone space piece is its word's first token. A word that normalises to nothing has none.
    """
    spans = tokenizer.spans_of_pieces(lines)
    return [_words(line, np.array(of_line).reshape(-1, 2)) for line, of_line in zip(lines, spans, strict=True)]


def _words(line: bytes, spans_L2: NDArray[np.int64]) -> NDArray[np.int64]:
    bounds_W2 = np.array([word.span() for word in _WORD.finditer(line)]).reshape(-1, 2)
    if not len(spans_L2):
        return np.empty(0, dtype=np.int64)
    # the last word that begins before the piece ends; of a piece of white space that one lies before it
    word_L = np.searchsorted(bounds_W2[:, 0], spans_L2[:, 1]) - 1
    lies_before_L = (word_L < 0) | (bounds_W2[np.maximum(word_L, 0), 1] <= spans_L2[:, 0])
    words_L: NDArray[np.int64] = np.minimum(word_L + lies_before_L, len(bounds_W2) - 1)
    return words_L
