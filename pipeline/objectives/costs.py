"""What objectives take of a rank and of a step, as arithmetic on their settings; and of what a plan is told.

Knows no PyTorch: what a config would train is told without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pipeline.model.flops import (
    decoder_flops,
    encoder_forward_flops,
    own_keys_flops,
    pointer_flops,
    replaced_tokens_flops,
    slow_keys_flops,
    token_contrast_flops,
)
from pipeline.settings.objectives import ContrastTerm, ReplacedTokensTerm, TokenContrastTerm, WordAlignmentTerm
from pipeline.settings.sentence_contrast import Constant
from pipeline.settings.sizes import (
    EncoderConfig,
    ModelSizes,
    count_parameters,
    distance_parameters,
    layer_parameters,
    table_parameters,
)
from pipeline.settings.text_to_text import Noise, SpanCorruption, Translation
from pipeline.settings.text_to_text_views import SpanOptions


class Sample(Protocol):
    """Samples of a stream that stand for a step's."""

    @property
    def of_step(self) -> int:
        """How many samples the stream has in a step."""

    @property
    def lengths_S(self) -> np.ndarray: ...  # noqa: N802
    @property
    def tokens(self) -> int: ...
    @property
    def predicted(self) -> int:
        """Masked tokens."""

    @property
    def sides_C(self) -> np.ndarray:  # noqa: N802
        """Tokens of every source and target in turn, without their first and last special token; of pairs alone."""


@dataclass(frozen=True)
class Costs:
    """What an objective takes beside its parameters, its operations and logits over the vocabulary."""

    replicated: int = 0  # bytes that every rank holds beside what is trained
    averaged: int = 0  # parameters that every rank needs whole after each step
    exchanged: float = 0.0  # bytes of a step that ranks tell each other between labelling and losses
    compared: float = 0.0  # bytes of similarities in memory at a time
    labelled_layers: int = 0  # of the trained encoder, that labelling runs
    backward_share: float = (
        1.0  # of its stream's tokens × the encoder's layers, what a shared pass keeps for the backward
    )
    own_layers: float = 0  # that passes which it shares with nobody go through; 0: it shares its stream's
    own_passes: float = 0.0  # through the encoder to learn, in a micro-step, beside the one over masked tokens
    drawing: int = 0  # parameters that labelling needs beside the encoder's layers


def contrast_costs(term: ContrastTerm, sizes: EncoderConfig, samples: float, of_step: int) -> Costs:
    """samples: of a micro-step; of_step: of a step."""
    own_keys = term.momentum is None
    vectors = 2 if own_keys else term.directions
    slow = 0
    if not own_keys:
        cut = count_parameters(replace(sizes, layers=term.layer), heads=0)["total"]
        slow = cut + term.projection * sizes.hidden**2
    queue = term.queue * (4 * sizes.hidden + 8) + 8 if term.queue else 0
    # Scores, the same with the query's own, divided, and their softmax; who is left out.
    compared = (4 * 4 + 1) * (term.queue + term.in_batch * of_step)
    return Costs(
        replicated=4 * slow + queue,
        averaged=0 if term.momentum == Constant(value=1.0) else slow,
        exchanged=of_step * (vectors * 4 * sizes.hidden + 2 * 8),
        compared=compared * (term.directions * of_step if own_keys else samples),
        labelled_layers=term.layer if own_keys else 0,
        backward_share=term.layer / sizes.layers * (1.0 if own_keys or term.both_directions else 0.5),
        own_passes=term.layer / sizes.layers,
    )


def contrast_work(term: ContrastTerm, sizes: EncoderConfig, sample: Sample) -> float:
    """Labelling, forward and backward of a sample's sides."""
    pairs = len(sample.lengths_S)
    lengths_B2 = sample.sides_C.reshape(-1, 2) + 2

    def encoding(*sides: int) -> float:
        return sum(encoder_forward_flops(sizes, lengths_B2[:, side], term.layer) for side in sides)

    if term.momentum is None:
        own = own_keys_flops(sizes, pairs, sample.of_step, term.directions, term.projection)
        return (1 + 3) * encoding(0, 1) + own
    negatives = term.queue + term.in_batch * sample.of_step
    queries, keys = ((0, 1), (0, 1)) if term.both_directions else ((0,), (1,))
    own = slow_keys_flops(sizes, pairs * term.directions, negatives, term.projection)
    return 3 * encoding(*queries) + encoding(*keys) + own


def word_alignment_costs(term: WordAlignmentTerm, sizes: EncoderConfig, samples: float, of_step: int) -> Costs:
    return Costs(labelled_layers=term.alignment_layer)


def word_alignment_work(term: WordAlignmentTerm, sizes: EncoderConfig, sample: Sample) -> float:
    """Operations of labelling, and of the pointer head."""
    lengths = sample.lengths_S if term.label_encoding == "joint" else sample.sides_C + 2
    labelling = encoder_forward_flops(sizes, lengths, term.alignment_layer)
    return labelling + pointer_flops(sizes, sample.tokens, sample.predicted)


def token_contrast_costs(term: TokenContrastTerm, sizes: EncoderConfig, samples: float, of_step: int) -> Costs:
    return Costs(labelled_layers=max(term.labelling_layers, default=0), own_passes=term.layer / sizes.layers)


def token_contrast_work(term: TokenContrastTerm, sizes: EncoderConfig, sample: Sample) -> float:
    """Operations of labelling, forward and backward of a sample's sides."""

    def encoding(layer: int) -> float:
        return encoder_forward_flops(sizes, sample.sides_C + 2, layer)

    labelling = encoding(max(term.labelling_layers)) if term.labelling_layers else 0.0
    return labelling + 3 * encoding(term.layer) + token_contrast_flops(sizes, sample.sides_C)


def replaced_tokens_costs(term: ReplacedTokensTerm, sizes: EncoderConfig, samples: float, of_step: int) -> Costs:
    """What the generator reads to draw are all its parameters, tables that it shares included."""
    own = 3 * sizes.hidden + term.generator_layers * layer_parameters(sizes) + masked_lm_parameters(sizes)
    drawing = own + table_parameters(sizes) + distance_parameters(sizes)
    return Costs(own_layers=term.generator_layers + sizes.layers, own_passes=1.0, drawing=drawing)


def replaced_tokens_work(term: ReplacedTokensTerm, sizes: EncoderConfig, sample: Sample) -> float:
    """Operations of drawing, forward and backward of a sample."""
    return replaced_tokens_flops(sizes, sample.lengths_S, term.generator_layers, sample.predicted)


def generator_parameters(term: ReplacedTokensTerm, sizes: EncoderConfig) -> int:
    """Own tables of the generator count, and the encoder's differences from them, whichever there are."""
    shared = table_parameters(sizes) if term.embeddings == "tied" else 0
    return replaced_tokens_costs(term, sizes, 0.0, 0).drawing - shared


def masked_lm_parameters(sizes: EncoderConfig) -> int:
    """Of a head that predicts words, without the matrix of words, which it shares."""
    return sizes.hidden * (sizes.hidden + 3) + sizes.vocab_size


Texts = Callable[[Any, Sample], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Tokens of the sources and the targets that an objective makes of a sample, by its settings, and the source of each target."""


def span_texts(term: SpanCorruption, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of blocks, as if each were one sentence, or of both sides of pairs."""
    special = 3 if len(sample.sides_C) else 2
    return _span_texts(term, sample.lengths_S, sample.lengths_S - special)


def one_side_texts(term: SpanCorruption, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the first side of each pair: which it is, is drawn."""
    return _span_texts(term, sample.lengths_S, sample.sides_C[0::2])


def _span_texts(
    term: SpanCorruption, whole_S: np.ndarray, may_hide_S: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = SpanOptions(term.density, term.span, term.groups).counts
    hidden_S, spans_S = np.array([counts(tokens) for tokens in may_hide_S.tolist()]).T
    groups_S = np.minimum(spans_S, term.groups)
    target_S = (hidden_S + spans_S) / groups_S
    return whole_S - hidden_S + spans_S, np.repeat(target_S, groups_S), np.repeat(np.arange(len(whole_S)), groups_S)


def sentence_texts(term: Noise, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As if a block were one sentence: shorter ones have less attention."""
    words_S = sample.lengths_S - 2
    return words_S * (1 - term.drop) + 2, words_S + 1, np.arange(len(words_S))


def translation_texts(term: Translation, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    source_S, target_S = sample.sides_C[0::2] + 2, sample.sides_C[1::2] + 1
    return source_S, target_S, np.arange(len(source_S))


def text_to_text_work(term: Any, sizes: EncoderConfig, sample: Sample, texts: Texts) -> float:
    """Encoding, with a backward if it learns; forward and backward of the decoder."""
    assert isinstance(sizes, ModelSizes)
    source_S, target_R, owner_R = texts(term, sample)
    encodings = 1 if sizes.freezes else 3
    encoding = encodings * encoder_forward_flops(sizes, source_S, sizes.layers)
    return encoding + decoder_flops(sizes.decoder, sizes, source_S, target_R, owner_R)


def text_to_text_costs(term: Any, sizes: EncoderConfig, samples: float, of_step: int) -> Costs:
    """As if a stream's tokens were read and written by halves; each objective needs the decoder's weights for itself."""
    assert isinstance(sizes, ModelSizes)
    learned = 0 if sizes.freezes else sizes.layers
    written = sizes.decoder.layers * (2.0 if sizes.decoder.layout == "interleaved" else 1.3)
    return Costs(
        labelled_layers=sizes.layers if sizes.freezes else 0,
        own_layers=(learned + written) / 2,
        own_passes=0.0 if sizes.freezes else 1.0,
    )
