"""What views of text to text are told, and by arithmetic how long what they make becomes. Knows no PyTorch.

`stream` is "mono" or "pairs" everywhere, and `limit` what `data.block_tokens` or `data.side_tokens` says of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pipeline.settings.text_to_text import Decoder

TagPlace = Literal["source", "target"]
"""Where the tag of the language to write stands: after the source's `<s>`, or in place of the target's."""


class Longest(NamedTuple):
    """Tokens of the longest sequences that a view makes, special tokens, sentinels and tags included."""

    source: int
    target: int  # what the decoder reads


@dataclass(frozen=True)
class SpanOptions:
    """How spans are chosen (T5's `random_spans_noise_mask`) and written (mT6; Chi et al., EMNLP 2021).

    density: share of the tokens in spans, above 0 and below 1; span: their mean tokens; groups: of consecutive spans, each
    of them a target of its own; sides: of pairs, whether both may have spans, or one that is drawn.
    """

    density: float
    span: float
    groups: int
    sides: Literal["all", "one"] = "all"

    def counts(self, tokens: int) -> tuple[int, int]:
        """(tokens in spans, spans) of a sequence of so many ordinary tokens; one empty span where they are fewer than 2."""
        if tokens < 2:
            return 0, 1
        hidden = min(max(round(tokens * self.density), 1), tokens - 1)
        # a token is kept before every span
        return hidden, min(max(round(hidden / self.span), 1), tokens - hidden)

    def most_spans(self, stream: str, limit: int) -> int:
        """Spans of the sequence that has most. It needs one sentinel more than that."""
        return self.counts(self._most_tokens(stream, limit))[1]

    def longest(self, stream: str, limit: int) -> Longest:
        source = limit if stream == "mono" else 2 * limit + 3
        return Longest(source, max(map(self._longest_target, range(self._most_tokens(stream, limit) + 1))))

    def _most_tokens(self, stream: str, limit: int) -> int:
        """Ordinary tokens that may be hidden of the longest sequence."""
        if stream == "mono":
            return limit - 2
        return 2 * limit if self.sides == "all" else limit

    def _longest_target(self, tokens: int) -> int:
        """Sentinels and tokens of the longest group there can be: those of the others have spans of one token."""
        hidden, spans = self.counts(tokens)
        of_group = -(-spans // self.groups)
        return of_group + hidden - (spans - of_group)


@dataclass(frozen=True)
class NoiseOptions:
    """Noise on a sentence, in this order (XNLG; Chi et al., AAAI 2020).

    shuffle: farthest that a token moves; drop: share of the tokens left out; blank: share of the others behind `<mask>`.
    """

    shuffle: float
    drop: float
    blank: float
    tag: TagPlace

    def longest(self, stream: str, limit: int) -> Longest:
        return Longest(limit + (self.tag == "source"), limit - 1)


@dataclass(frozen=True)
class TranslationOptions:
    """tag: how the language to write is told; directions: that are trained, as "en-de"; none: both of every pair."""

    tag: TagPlace
    directions: tuple[str, ...] = ()

    def longest(self, stream: str, limit: int) -> Longest:
        return Longest(limit + 2 + (self.tag == "source"), limit + 1)


STREAMS = {"sc": "mono", "tsc": "pairs", "tpsc": "pairs", "dae": "mono", "mt": "pairs"}
"""The stream that each objective reads."""


def options_of(name: str, term: Any, decoder: Decoder) -> SpanOptions | NoiseOptions | TranslationOptions:
    """What the view of an objective is told, by its name and settings and the decoder's."""
    if name == "dae":
        return NoiseOptions(term.shuffle, term.drop, term.blank, decoder.tag)
    if name == "mt":
        return TranslationOptions(decoder.tag, tuple(term.directions))
    return SpanOptions(term.density, term.span, term.groups, "one" if name == "tsc" else "all")
