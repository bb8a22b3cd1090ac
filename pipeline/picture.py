"""Pictures of word alignments: the links of a pair as a grid of words, gold links outlined."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from pipeline.word_alignment import WordLinks


def draw_alignments(
    source: Sequence[str],
    target: Sequence[str],
    gold: Collection[tuple[int, int]],
    links: Sequence[WordLinks],
    path: Path,
    titles: Sequence[str] = ("before", "after"),
) -> None:
    """Draw one grid per set of links side by side into a PNG; filled: predicted, outlined: gold."""
    size = 1.5 + 0.45 * max(len(source), len(target))
    figure, axes = plt.subplots(1, len(links), figsize=(size * len(links), size), squeeze=False)
    for axis, found, title in zip(axes[0], links, titles, strict=True):
        for i, j in found:
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color="#4c78a8" if (i, j) in gold else "#e45756", lw=0))
        for i, j in gold:
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="black", lw=1.5))
        axis.set_xticks(range(len(target)), target, rotation=60, ha="right")
        axis.set_yticks(range(len(source)), source)
        axis.set_xlim(-0.5, len(target) - 0.5)
        axis.set_ylim(len(source) - 0.5, -0.5)
        axis.set_aspect("equal")
        right = sum((i, j) in gold for i, j in found)
        axis.set_title(f"{title}: {right} of {len(gold)} gold links, {len(found) - right} wrong")
        axis.grid(visible=True, color="#dddddd", lw=0.5)
        axis.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
