"""Pictures: the links of a pair as a grid of words with gold links outlined, and scores over the layers of a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from data_prep.files import output_place
from pipeline.align.word_alignment import WordLinks
from pipeline.show.fonts import drawn_as_they_are
from pipeline.show.pair_view import PairView

AVERAGE = {"color": "black", "lw": 2.5}


def save_picture(figure: Figure, path: Path, **how: Any) -> None:
    """Write a figure as a PNG, whole or not at all, and forget it; how: more of `Figure.savefig`."""
    with output_place(path) as place:
        figure.savefig(place, format="png", dpi=110, **how)
    plt.close(figure)


def draw_alignments(
    source: Sequence[str],
    target: Sequence[str],
    gold: Collection[tuple[int, int]],
    links: Sequence[WordLinks],
    path: Path,
    titles: Sequence[str] = ("before", "after"),
) -> None:
    """Draw one grid per set of links side by side into a PNG; filled: predicted, outlined: gold, where there is any.

    Raises MissingFontsError where no font has the words' characters.
    """
    with drawn_as_they_are([*source, *target, *titles]):
        _draw_grids(source, target, gold, links, path, titles)


def _draw_grids(
    source: Sequence[str],
    target: Sequence[str],
    gold: Collection[tuple[int, int]],
    links: Sequence[WordLinks],
    path: Path,
    titles: Sequence[str],
) -> None:
    size = 1.5 + 0.45 * max(len(source), len(target))
    figure, axes = plt.subplots(1, len(links), figsize=(size * len(links), size), squeeze=False)
    for axis, found, title in zip(axes[0], links, titles, strict=True):
        for i, j in found:
            wrong = bool(gold) and (i, j) not in gold
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color="#e45756" if wrong else "#4c78a8", lw=0))
        for i, j in gold:
            axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, ec="black", lw=1.5))
        axis.set_xticks(range(len(target)), target, rotation=60, ha="right")
        axis.set_yticks(range(len(source)), source)
        axis.set_xlim(-0.5, len(target) - 0.5)
        axis.set_ylim(len(source) - 0.5, -0.5)
        axis.set_aspect("equal")
        right = sum((i, j) in gold for i, j in found)
        counts = f"{right} of {len(gold)} gold links, {len(found) - right} wrong" if gold else f"{len(found)} links"
        axis.set_title(f"{title}: {counts}")
        axis.grid(visible=True, color="#dddddd", lw=0.5)
        axis.set_axisbelow(True)
    figure.tight_layout()
    save_picture(figure, path, bbox_inches="tight")


def draw_heat_map(view: PairView, path: Path) -> None:
    """Draw a pair's similarities as shades, its links as dots and the gold links outlined into a PNG.

    Raises MissingFontsError where no font has the words' characters; the HTML page has the browser's fonts.
    """
    with drawn_as_they_are([*view.source, *view.target, view.title]):
        _draw_heat_map(view, path)


def _draw_heat_map(view: PairView, path: Path) -> None:
    size = 1.5 + 0.4 * max(len(view.source), len(view.target))
    figure, axis = plt.subplots(figsize=(size + 1, size))
    shades = axis.imshow(view.similarities, cmap="Blues", aspect="equal")
    if view.links:
        axis.scatter([j for _, j in view.links], [i for i, _ in view.links], color="#d95f02", s=45, zorder=3)
    for i, j in view.possible_inside():
        style = "-" if (i, j) in view.sure else ":"
        axis.add_patch(Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, ec="black", lw=1.8, ls=style))
    axis.set_xticks(range(len(view.target)), view.target, rotation=60, ha="right")
    axis.set_yticks(range(len(view.source)), view.source)
    axis.set_title(view.title, fontsize="medium", loc="left")
    figure.colorbar(shades, ax=axis, shrink=0.6, label="cosine")
    figure.tight_layout()
    save_picture(figure, path, bbox_inches="tight")


def draw_layers(panels: Sequence[tuple[str, dict[str, list[float]]]], path: Path) -> None:
    """Draw curves over layers into a PNG, a panel per score: its title, and by name a value for every layer."""
    figure, axes = plt.subplots(1, len(panels), figsize=(7 * len(panels), 4.5), squeeze=False)
    for axis, (title, curves) in zip(axes[0], panels, strict=True):
        colors = plt.colormaps["tab10"](range(10)) if len(curves) <= 11 else plt.colormaps["tab20"](range(20))
        axis.set_prop_cycle(color=colors)
        for name, values in curves.items():
            axis.plot(range(len(values)), values, marker=".", label=name, **AVERAGE if name == "avg" else {"lw": 1})
        axis.set(xlabel="layer (0: embeddings)", title=title)
        axis.grid(visible=True, color="#dddddd", lw=0.5)
        axis.legend(fontsize="small", ncols=2)
    figure.tight_layout()
    save_picture(figure, path)
