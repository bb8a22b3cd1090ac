"""One pair as it is shown: words, similarities, links, gold; and its HTML, a drawing of links beside a heat map.

Knows what is shown and how; nothing of models, files or requests.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from html import escape
from unicodedata import east_asian_width

from pipeline.align.word_alignment import ScoredLinks
from pipeline.evaluate.gold import WordLink

ROW, GAP, LETTER = 26, 260, 9
"""Pixels of the drawing: height of a word, between the two sides, and width of a letter (wide ones twice)."""

HEAT_STYLE = """
table.heat { border-collapse: separate; border-spacing: 2px; }
.heat th { font-weight: normal; text-align: right; padding: 0 .4rem; white-space: nowrap; }
.heat thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: .4rem 0; }
.heat td { width: 26px; height: 26px; text-align: center; color: #d95f02; font-weight: bold; outline-offset: -2px; }
.heat td.sure { outline: 2px solid #1c2733; } .heat td.possible { outline: 2px dotted #1c2733; }
"""
STYLE = (
    """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
svg text { font: 15px system-ui, sans-serif; fill: #1c2733; }
.scroll { overflow-x: auto; }
.message { background: #fdecea; border-left: 4px solid #c0392b; padding: .6rem .9rem; }
"""
    + HEAT_STYLE
)
LEGEND = "Shades: largest cosine of two subwords. ● predicted link; outline: gold link, dotted where only possible."


@dataclass
class PairView:
    """What is shown of a pair."""

    source: Sequence[str]
    target: Sequence[str]
    similarities: Sequence[Sequence[float]]  # [M][N]
    links: ScoredLinks
    sure: Collection[WordLink] = field(default_factory=set)
    possible: Collection[WordLink] = field(default_factory=set)
    """Holds the sure links too."""
    note: str = ""

    @property
    def title(self) -> str:
        """What was done, how many links came out, and how many of them are gold."""
        counts = f"{len(self.links)} links"
        if self.possible:
            right = sum(link in self.possible for link in self.links)
            missed = sum(link not in self.links for link in self.sure)
            counts += f", {right} of them gold; {missed} sure ones missed"
        return f"{self.note}: {counts}" if self.note else counts

    def possible_inside(self) -> list[WordLink]:
        """Gold links between words that exist, sorted."""
        return sorted((i, j) for i, j in self.possible if 0 <= i < len(self.source) and 0 <= j < len(self.target))


def links_svg(view: PairView) -> str:
    """The two sides as columns, a line for every link: darker for a larger cosine; gold links that were missed dashed."""
    height = ROW * max(len(view.source), len(view.target), 1) + 10
    left = _column(view.source)
    right = left + GAP
    width = right + _column(view.target)
    missed = [(i, j, None) for i, j in view.possible_inside() if (i, j) in view.sure and (i, j) not in view.links]
    found = [(i, j, score) for (i, j), score in view.links.items()]
    lines = []
    for i, j, score in [*missed, *found]:
        words = escape(f"{view.source[i]} – {view.target[j]}")
        color = "#2b6cb0" if not view.possible or (i, j) in view.possible else "#c0392b"
        look = (
            f'stroke="{color}" stroke-opacity="{0.35 + 0.65 * min(max(score, 0.0), 1.0):.2f}"'
            if score is not None
            else ""
        )
        look = look or 'stroke="#1c2733" stroke-dasharray="4 4"'
        label = f"{words}: {score:.3f}" if score is not None else f"{words}: gold, missed"
        lines.append(
            f'<line class="link" x1="{left + 6}" y1="{_middle(i)}" x2="{right - 6}" y2="{_middle(j)}" '
            f'stroke-width="2" {look}><title>{label}</title></line>'
        )
    texts = [_text(word, left, at, "end") for at, word in enumerate(view.source)]
    texts += [_text(word, right, at, "start") for at, word in enumerate(view.target)]
    body = "\n".join(lines + texts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">\n{body}\n</svg>'
    )


def _column(words: Sequence[str]) -> int:
    """Pixels that the longest word may take."""
    letters = (sum(1 + (east_asian_width(letter) in "WF") for letter in word) for word in words)
    return 20 + LETTER * max(letters, default=0)


def _middle(at: int) -> int:
    return 5 + ROW * at + ROW // 2


def _text(word: str, x: int, at: int, anchor: str) -> str:
    return f'<text x="{x}" y="{_middle(at) + 5}" text-anchor="{anchor}">{escape(word)}</text>'


def heat_map_html(view: PairView, source_words: bool = True) -> str:
    """A table, a row for every source word: shades, links and gold links. Without `source_words`, rows have no heads."""
    header = "".join(f"<th>{escape(word)}</th>" for word in view.target)
    rows = []
    for i, word in enumerate(view.source):
        cells = "".join(_cell(view, i, j) for j in range(len(view.target)))
        head = f"<th>{escape(word)}</th>" if source_words else ""
        rows.append(f"<tr>{head}{cells}</tr>")
    corner = "<td></td>" if source_words else ""
    return f'<table class="heat"><thead><tr>{corner}{header}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _cell(view: PairView, i: int, j: int) -> str:
    value = view.similarities[i][j]
    gold = "sure" if (i, j) in view.sure else "possible" if (i, j) in view.possible else ""
    shade = f"background: rgba(43, 108, 176, {min(max(value, 0.0), 1.0) ** 2:.3f})"
    label = escape(f"{view.source[i]} – {view.target[j]}: {value:.3f}", quote=True)
    return f'<td class="{gold}" style="{shade}" title="{label}">{"●" if (i, j) in view.links else ""}</td>'


def view_html(view: PairView) -> str:
    """The drawing and the heat map, to stand in a page."""
    return (
        f'<h2>{escape(view.title)}</h2>\n<div class="scroll">{links_svg(view)}</div>\n'
        f'<h2>Similarities</h2>\n<div class="scroll">{heat_map_html(view)}</div>\n<p>{LEGEND}</p>'
    )


def page_html(body: str, title: str = "Word alignment") -> str:
    """A whole page that needs nothing from anywhere else."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
