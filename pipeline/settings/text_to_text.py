"""Settings of text to text: the decoder, and the terms of the loss that train it. Knows no PyTorch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from data_prep.sections import NotNegative, Positive, Section, Single

WRITING = ("sc", "tsc", "tpsc", "dae", "mt")
"""The objectives that train a decoder."""


class Decoder(Section):
    """A decoder of the encoder's widths."""

    layers: Positive = Field(6, description="layers")
    layout: Literal["vanilla", "interleaved"] = Field(
        "vanilla",
        description="vanilla: self-attention, cross-attention, feed-forward network; interleaved: a feed-forward network after "
        "either attention (DeltaLM)",
    )
    start: Literal["encoder", "random"] = Field(
        "encoder",
        description="what a new decoder begins as where model.init is given: encoder, its lowest layers, two for each of an "
        "interleaved decoder; random, random weights",
    )
    cross_attention: Literal["random", "self"] = Field(
        "random",
        description="what cross-attention of a vanilla decoder begins as: self, the self-attention of its layer",
    )
    embeddings: Literal["tied", "own"] = Field(
        "tied", description="words and positions: tied, the encoder's tables; own, tables that begin as copies of them"
    )
    tag: Literal["source", "target"] = Field(
        "target",
        description="where the tag of the language to write stands: source, as the source's first token (XLM-T); target, as "
        "what the decoder begins with",
    )
    sentinels: NotNegative = Field(
        100, description="words that stand for spans; as many as a sequence has at most, and one"
    )


class SpanCorruption(Section):
    density: float = Field(0.5, gt=0, lt=1, description="share of the tokens in spans")
    span: Single = Field(3.0, ge=1, description="mean tokens of a span")
    groups: Positive = Field(
        3,
        description="groups of consecutive spans, each written without the others (partially non-autoregressive); 1: one",
    )


class Noise(Section):
    shuffle: NotNegative = Field(3, description="farthest that a token moves")
    drop: float = Field(0.1, ge=0, lt=1, description="share of the tokens that are left out")
    blank: float = Field(0.1, ge=0, lt=1, description="share of the others behind <mask>")


class Translation(Section):
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target's probability that all words have alike"
    )
    directions: list[str] = Field(
        [], description="what is trained, source-target, as [en-de, en-fr]; empty: both directions of every pair"
    )

    @field_validator("directions")
    @classmethod
    def _are_directions(cls, directions: list[str]) -> list[str]:
        for direction in directions:
            codes = direction.split("-")
            if len(codes) != 2 or not all(codes) or codes[0] == codes[1]:
                raise ValueError(f"{direction!r}: write two languages, source-target, as en-de or en-zh_Hans")
        if len(set(directions)) < len(directions):
            raise ValueError("the same direction twice; name each once")
        return directions
