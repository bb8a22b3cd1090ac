"""The part of a run's page that shows its alignments as they evolved: for every recorded pair a row of small grids.

Knows what was recorded, and HTML; nothing of curves.
"""

from __future__ import annotations

from html import escape

from pipeline.show.pair_view import HEAT_STYLE, LEGEND, PairView, heat_map_html
from pipeline.watch.alignment_record import PairKey, Views

MOST_GRIDS = 6
"""Of a pair: first and last validation, and some between, evenly spread."""
STYLE = (
    HEAT_STYLE
    + """
.evolution { display: flex; flex-wrap: wrap; gap: .4em 1.2em; align-items: end; margin: .6em 0 1.6em; }
.evolution figcaption { font-weight: normal; font-size: 13px; padding-bottom: .3em; text-align: right; }
.evolution table.heat { margin: 0 0 0 auto; border-spacing: 1px; }
.evolution .heat th { font-size: 12px; line-height: 15px; padding: 0 .3em; }
.evolution .heat thead th { padding: .3em 0; }
.evolution .heat td { width: 15px; height: 15px; font-size: 11px; line-height: 15px; padding: 0; border: 1px solid #eef1f4; }
.evolution .heat thead td { border: 0; }
.evolution .heat td.sure, .evolution .heat td.possible { outline-width: 1.5px; outline-offset: -1.5px; }
"""
)


def evolution_html(views: Views) -> str:
    """A heading and the rows of all pairs, in the order of the last step; nothing where nothing was recorded."""
    if not views:
        return ""
    pairs = views[max(views)]
    rows = "".join(
        _row(key, {step: of_step[key] for step, of_step in views.items() if key in of_step}) for key in pairs
    )
    return f"<h2>Alignments over the run</h2><p>At the alignment layer. {LEGEND}</p>{rows}"


def _row(key: PairKey, views: dict[int, PairView]) -> str:
    steps = list(views)
    last = len(steps) - 1
    grids = min(MOST_GRIDS, len(steps))
    shown = sorted({round(at * last / max(grids - 1, 1)) for at in range(grids)})
    figures = "".join(
        f"<figure><figcaption>step {steps[at]:,}<br>{_counts(views[steps[at]])}</figcaption>"
        f"{heat_map_html(views[steps[at]], source_words=at == 0)}</figure>"
        for at in shown
    )
    return f'<h3>{escape(key[0])}, line {key[1]}</h3><div class="evolution">{figures}</div>'


def _counts(view: PairView) -> str:
    found = sum(link in view.sure for link in view.links)
    wrong = sum(link not in view.possible for link in view.links)
    return f"{found} of {len(view.sure)} gold links, {wrong} wrong"
