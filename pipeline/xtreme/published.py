"""Rows that papers of the family print, to stand beside one's own: zero-shot from English, mean of five seeds.

From the table of XLM-E (Chi et al., ACL 2022, arXiv 2106.16138), whose rows of XLM-R and XLM-Align are those of XLM-Align's.
Question answering is F1 / exact match there; a task's figure in the mean is the average of both.
"""

from __future__ import annotations

from dataclasses import dataclass

Figure = float | tuple[float, float]


@dataclass(frozen=True)
class PublishedRow:
    """One model's row."""

    model: str
    figures: dict[str, Figure]
    """By task; of question answering F1 and exact match."""
    average: float


def _row(model: str, average: float, *figures: Figure) -> PublishedRow:
    names = ("udpos", "panx", "xquad", "mlqa", "tydiqa", "xnli", "pawsx")
    return PublishedRow(model, dict(zip(names, figures, strict=True)), average)


ROWS = (
    _row("XLM-R base", 66.4, 75.6, 61.8, (71.9, 56.4), (65.1, 47.2), (55.4, 38.3), 75.0, 84.9),
    _row("XLM-Align base", 68.9, 76.0, 63.7, (74.7, 59.0), (68.1, 49.8), (62.1, 44.8), 76.2, 86.8),
    _row("XLM-E base", 69.3, 75.6, 63.5, (76.2, 60.2), (68.3, 49.8), (62.4, 45.7), 76.6, 88.3),
)
