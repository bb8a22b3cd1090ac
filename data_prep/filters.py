"""Which pairs are kept: each filter has a name, a bound from the command line, and a count of what it dropped.

Judges one pair at a time by its text and token counts; knows nothing of files or shards.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PairFilters:
    """Bounds of the pair filters; they are part of a source's settings hash. The first that applies counts.

    Attributes:
        max_tokens: longest side in tokens; 254 fits `<s> src </s> trg </s>` with both sides full into 512.
        max_ratio: largest ratio between the two sides' token counts (9, as in Moses' corpus cleaning).
        keep_identical: keep pairs whose sides are the same text.
        min_score: lowest score of a TSV file's score column; None keeps all.

    Raises:
        ValueError: a bound out of its range.
    """

    max_tokens: int = 254
    max_ratio: float = 9.0
    keep_identical: bool = False
    min_score: float | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"--max-tokens {self.max_tokens}: must be at least 1; 254 fits the model")
        if not self.max_ratio >= 1:
            raise ValueError(f"--max-ratio {self.max_ratio}: must be at least 1; 9 is usual")

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
