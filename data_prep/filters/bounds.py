"""Which pairs and lines are kept: each filter has a name, a bound from the command line, and a count of what it dropped.

Judges one pair or line at a time by its text and token counts; knows nothing of files or shards. Only what stands on the
line is judged here: repeated lines are found by `duplicates`, other languages by `language_id`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

# C0 and C1 controls but tab, line feed, carriage return and next line, which are white space; what a wrong decoder leaves
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ufffe\uffff]")
DuplicateUnit = Literal["no", "lines", "documents"]


@dataclass(frozen=True)
class MonoFilters:
    """Cleaning of monolingual text, all of it off by default: CC-100 comes cleaned. The first that applies counts.

    Raises:
        ValueError: a bound out of its range.
    """

    drop_control: bool = False
    """Drop lines with control or replacement characters ("control_characters")."""
    max_characters: int | None = None
    """Drop longer lines ("too_long"); None keeps all."""
    drop_duplicates: DuplicateUnit = "no"
    """Drop lines, or documents, that repeat an earlier one of the run's ("duplicate")."""
    min_language_probability: float | None = None
    """Drop lines that language identification takes for another language with at least this probability ("language"); None:
    not judged."""

    def __post_init__(self) -> None:
        if self.max_characters is not None and self.max_characters < 1:
            raise ValueError(f"--max-characters {self.max_characters}: must be at least 1; 10000 is generous")
        _check_probability(self.min_language_probability)

    @property
    def finds_duplicates(self) -> bool:
        """Whether repeated lines or documents are looked for."""
        return self.drop_duplicates != "no"

    def drop_text(self, text: str) -> str | None:
        """Reason to drop a line before it is encoded: "control_characters" or "too_long", else None."""
        if self.drop_control and CONTROL_CHARACTERS.search(text):
            return "control_characters"
        return "too_long" if self.max_characters is not None and len(text) > self.max_characters else None


def _check_probability(probability: float | None) -> None:
    if probability is not None and not 0 < probability <= 1:
        raise ValueError(f"--lang-id {probability}: must be above 0 and at most 1; 0.8 is usual")


@dataclass(frozen=True)
class PairFilters:
    """Bounds of the pair filters; they are part of a source's settings hash. The first that applies counts.

    Raises:
        ValueError: a bound out of its range.
    """

    max_tokens: int = 254
    """Longest side in tokens; 254 fits `<s> src </s> trg </s>` with both sides full into 512."""
    max_ratio: float = 9.0
    """Largest ratio between the two sides' token counts (9, as in Moses' corpus cleaning)."""
    keep_identical: bool = False
    """Keep pairs whose sides are the same text."""
    min_score: float | None = None
    """Lowest score of a TSV file's score column; None keeps all."""
    drop_duplicates: bool = False
    """Drop pairs that repeat an earlier one of the run's ("duplicate")."""
    min_language_probability: float | None = None
    """Drop pairs of which language identification takes a side for another language with at least this probability
    ("language"); None: not judged."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"--max-tokens {self.max_tokens}: must be at least 1; 254 fits the model")
        if not self.max_ratio >= 1:
            raise ValueError(f"--max-ratio {self.max_ratio}: must be at least 1; 9 is usual")
        _check_probability(self.min_language_probability)

    @property
    def finds_duplicates(self) -> bool:
        """Whether repeated pairs are looked for."""
        return self.drop_duplicates

    def drop_text(self, source: str, target: str, score: float | None) -> str | None:
        """Reason to drop a pair before it is encoded: "empty", "identical" or "low_score", else None."""
        source, target = source.strip(), target.strip()
        if not source or not target:
            return "empty"
        if source == target and not self.keep_identical:
            return "identical"
        # `not >=` rather than `<`: a score that is not a number is no reason to trust a pair
        if self.min_score is not None and (score is None or not score >= self.min_score):
            return "low_score"
        return None

    def drop_tokens(self, source_tokens: int, target_tokens: int) -> str | None:
        """Reason to drop an encoded pair: "empty", "too_long" or "length_ratio", else None.

        Text that normalises to nothing (zero-width characters alone) is empty although it has characters.
        """
        shorter, longer = sorted((source_tokens, target_tokens))
        if shorter == 0:
            return "empty"
        if longer > self.max_tokens:
            return "too_long"
        return "length_ratio" if longer > self.max_ratio * shorter else None
