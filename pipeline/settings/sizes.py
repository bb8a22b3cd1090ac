"""Sizes of an encoder and of a decoder: what they are for a config, and how many parameters they make.

Knows no PyTorch: what a config would train is told without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from pipeline.settings.schema import Config
from pipeline.settings.text_to_text import Decoder
from pipeline.settings.text_to_text_views import STREAMS

DISTANCE_BUCKETS = 32
"""Of a relative position bias, both directions together: T5's number, and WavLM's default."""


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an XLM-R-shaped encoder; the defaults are XLM-R base."""

    vocab_size: int = 250002
    layers: int = 12
    hidden: int = 768
    heads: int = 12
    feed_forward: int = 3072
    positions: int = 514  # the first two are never taken: see `longest`
    norm_eps: float = 1e-5
    dropout: float = 0.0
    init_std: float = 0.02
    gated_relative: bool = False  # whether attention has a gated relative position bias

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"model.hidden = {self.hidden} is not a multiple of model.heads = {self.heads}")

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, special tokens included: RoBERTa counts positions from 2."""
        return self.positions - 2


@dataclass(frozen=True)
class ModelSizes(EncoderConfig):
    """Sizes of an encoder and of what stands behind it."""

    decoder: Decoder = field(default_factory=Decoder)
    freezes: bool = False  # whether the encoder stays as it is


def with_decoder(sizes: EncoderConfig, config: Config) -> ModelSizes:
    """The encoder's sizes, and what the config says of a decoder."""
    own = {one.name: getattr(sizes, one.name) for one in fields(EncoderConfig)}
    return ModelSizes(**own, decoder=config.model.decoder or Decoder(), freezes=config.model.freeze is not None)


def longest_sequence(config: Config) -> int:
    """Tokens of the longest block or pair, or of what is read and written of one, special tokens included."""
    limits = {"mono": config.data.block_tokens, "pairs": config.data.side_tokens}
    views = [
        options.longest(STREAMS[name], limits[STREAMS[name]])
        for name, options in config.views_of_text_to_text().items()
    ]
    return max(limits["mono"], 2 * limits["pairs"] + 3, *(max(view) for view in views))


def scratch_sizes(config: Config, vocab_size: int) -> EncoderConfig:
    """Sizes of a model that starts from random weights."""
    names = ("layers", "hidden", "heads", "feed_forward", "dropout", "init_std")
    sizes = {name: getattr(config.model, name) for name in names}
    relative = config.model.positions == "gated_relative"
    return EncoderConfig(
        vocab_size=vocab_size, positions=longest_sequence(config) + 2, gated_relative=relative, **sizes
    )


def count_parameters(sizes: EncoderConfig, heads: int) -> dict[str, int]:
    """Parameters by part, with so many of the heads; the vocabulary matrix, which a head may share, counts as embedding."""
    embeddings = table_parameters(sizes) + 3 * sizes.hidden + distance_parameters(sizes)
    parts = {"embeddings": embeddings, "layers": sizes.layers * layer_parameters(sizes), "heads": heads}
    return {**parts, "total": sum(parts.values())}


def table_parameters(sizes: EncoderConfig) -> int:
    """Parameters of the embeddings of words and positions."""
    return (sizes.vocab_size + sizes.positions) * sizes.hidden


def layer_parameters(sizes: EncoderConfig) -> int:
    """Parameters of one transformer layer."""
    gate = 2 * (sizes.hidden // sizes.heads + 1) + sizes.heads if sizes.gated_relative else 0
    return _attention_parameters(sizes) + _feed_forward_parameters(sizes) + gate


def _attention_parameters(sizes: EncoderConfig) -> int:
    """Four projections and a norm."""
    return 4 * (sizes.hidden**2 + sizes.hidden) + 2 * sizes.hidden


def _feed_forward_parameters(sizes: EncoderConfig) -> int:
    """Two linear layers and a norm."""
    return 2 * sizes.hidden * sizes.feed_forward + sizes.feed_forward + 3 * sizes.hidden


def distance_parameters(sizes: EncoderConfig) -> int:
    """Parameters of the relative position bias that layers share."""
    return DISTANCE_BUCKETS * sizes.heads if sizes.gated_relative else 0


def decoder_parameters(settings: Decoder, sizes: EncoderConfig) -> int:
    """Parameters that a decoder of an encoder with these sizes adds: its layers, embeddings that are its own, its head."""
    feed_forwards = 2 if settings.layout == "interleaved" else 1
    layer = 2 * _attention_parameters(sizes) + feed_forwards * _feed_forward_parameters(sizes)
    tables = table_parameters(sizes) if settings.embeddings == "own" else 0
    head = sizes.hidden**2 + 3 * sizes.hidden + sizes.vocab_size
    return settings.layers * layer + tables + 3 * sizes.hidden + head
