"""Floating-point operations that a step needs by its definition.

A product of [a, b] and [b, c] counts 2·a·b·c; a backward counts twice its forward. Counted: products with weights, attention
scores and sums of every sequence's own L × L (a decoder's of the L · (L + 1) / 2 that it sees), the vocabulary at predicted
tokens only, labelling up to its layer. Not counted: padding, anything done twice to save memory, norms, softmax, Sinkhorn. So
waste lowers the utilisation.
"""

from __future__ import annotations

import numpy as np

from pipeline.settings.sizes import EncoderConfig
from pipeline.settings.text_to_text import Decoder

LOGITS_AT_ONCE = 2**29
"""Logits over the vocabulary that `linear_cross_entropy` has in memory at a time, on a GPU."""


def encoder_forward_flops(sizes: EncoderConfig, lengths_S: np.ndarray, layers: int) -> float:
    """One forward of `layers` layers: per token 8·D² + 4·D·F for the weights, and 4·D·L for a sequence of L tokens."""
    tokens_S = lengths_S.astype(np.float64)
    weights = 8 * sizes.hidden**2 + 4 * sizes.hidden * sizes.feed_forward
    return layers * float(weights * tokens_S.sum() + 4 * sizes.hidden * (tokens_S**2).sum())


def masked_lm_flops(sizes: EncoderConfig, predicted: int) -> float:
    """Forward and backward of the masked-LM head over so many predicted tokens."""
    return 6.0 * predicted * sizes.hidden * (sizes.hidden + sizes.vocab_size)


def decoder_flops(
    settings: Decoder,
    sizes: EncoderConfig,
    source_lengths_S: np.ndarray,
    target_lengths_R: np.ndarray,
    owner_R: np.ndarray,
) -> float:
    """Forward and backward of a decoder and its head, which predicts a word at every token of a target.

    owner_R: the source of each target. Keys and values of a source's tokens are made once, however many targets read them.
    """
    width = sizes.hidden
    read_S, written_R = source_lengths_S.astype(np.float64), target_lengths_R.astype(np.float64)
    feed_forwards = 2 if settings.layout == "interleaved" else 1
    weights = float((12 * width**2 + feed_forwards * 4 * width * sizes.feed_forward) * written_R.sum())
    weights += float(4 * width**2 * read_S.sum())
    itself = 2 * width * float((written_R * (written_R + 1)).sum())
    across = 4 * width * float((written_R * read_S[owner_R]).sum())
    return 3 * settings.layers * (weights + itself + across) + masked_lm_flops(sizes, int(written_R.sum()))


def pointer_flops(sizes: EncoderConfig, tokens: int, predicted: int) -> float:
    """Forward and backward of the pointer head: keys are made of every token, queries of every masked one."""
    return 6.0 * (tokens + predicted) * sizes.hidden**2


def token_contrast_flops(sizes: EncoderConfig, sides_C: np.ndarray) -> float:
    """Forward and backward of the cosines of a pair's tokens; sides_C: tokens of each source and target in turn."""
    source_B, target_B = sides_C.astype(np.float64).reshape(-1, 2).T
    return 6.0 * float((source_B * target_B).sum()) * sizes.hidden


def replaced_tokens_flops(sizes: EncoderConfig, lengths_S: np.ndarray, layers: int, predicted: int) -> float:
    """Drawing, and forward and backward of generator, encoder and head, over sequences with so many blanks.

    layers: the generator's, which go over them twice, once to draw and once to learn. The encoder reads what was drawn, as
    no other objective does.
    """
    drawing = encoder_forward_flops(sizes, lengths_S, layers) + masked_lm_flops(sizes, predicted) / 3
    telling = encoder_forward_flops(sizes, lengths_S, sizes.layers)
    telling += 2.0 * float(lengths_S.sum()) * sizes.hidden * (sizes.hidden + 1)
    return drawing + 3 * (drawing + telling)


def own_keys_flops(sizes: EncoderConfig, pairs: int, step: int, directions: int, projects: bool) -> float:
    """Sentence contrast without a slow encoder: vectors projected twice, once with gradient, compared with a step's."""
    projecting = 2 * pairs * (2 + 6) * sizes.hidden**2 if projects else 0.0
    return projecting + 6.0 * directions * pairs * step * sizes.hidden


def slow_keys_flops(sizes: EncoderConfig, queries: int, negatives: int, projects: bool) -> float:
    """The same with one, without its encoding: its keys have no gradient, so that comparing costs two thirds."""
    projecting = queries * (2 + 6) * sizes.hidden**2 if projects else 0.0
    return projecting + 4.0 * queries * negatives * sizes.hidden
