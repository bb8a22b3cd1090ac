"""How a pair is shown: every link in the drawing and in the heat map, and no text that a browser would run."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pipeline.show.pair_view import PairView, heat_map_html, links_svg, page_html, view_html
from pipeline.show.picture import draw_heat_map

SVG = "{http://www.w3.org/2000/svg}"


def view(**changes: object) -> PairView:
    fields: dict[str, object] = {
        "source": ["<b>", "b&c", "d"],
        "target": ["x", "家"],
        "similarities": [[0.1, 0.9], [-0.5, 0.2], [1.0, 0.0]],
        "links": {(0, 1): 0.9, (2, 0): 1.0},
        "sure": {(0, 1), (1, 1)},
        "possible": {(0, 1), (1, 1), (2, 1)},
        "note": "ot",
    }
    return PairView(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_drawing_has_a_line_for_every_link_and_every_missed_gold_link() -> None:
    drawing = ElementTree.fromstring(links_svg(view()))
    labels = [line.findtext(f"{SVG}title") for line in drawing.iter(f"{SVG}line")]
    assert labels == ["b&c – 家: gold, missed", "<b> – 家: 0.900", "d – x: 1.000"]
    assert [text.text for text in drawing.iter(f"{SVG}text")] == ["<b>", "b&c", "d", "x", "家"]
    colors = [line.get("stroke") for line in drawing.iter(f"{SVG}line")]
    assert len(set(colors)) == 3, "missed, right and wrong links look different"


def test_without_gold_no_link_is_called_wrong() -> None:
    drawing = ElementTree.fromstring(links_svg(view(sure=set(), possible=set())))
    assert len({line.get("stroke") for line in drawing.iter(f"{SVG}line")}) == 1
    assert view(sure=set(), possible=set()).title == "ot: 2 links"


def test_the_heat_map_marks_links_and_gold_links() -> None:
    table = ElementTree.fromstring(heat_map_html(view()))
    rows = [list(row.iter("td")) for row in table.find("tbody").iter("tr")]  # type: ignore[union-attr]
    assert [["●" if cell.text else "" for cell in row] for row in rows] == [["", "●"], ["", ""], ["●", ""]]
    assert [[cell.get("class") for cell in row] for row in rows] == [["", "sure"], ["", "sure"], ["", "possible"]]
    assert rows[1][0].get("title") == "b&c – x: -0.500"


def test_the_title_counts_links_by_gold() -> None:
    assert view().title == "ot: 2 links, 1 of them gold; 1 sure ones missed"


def test_the_page_loads_nothing_and_escapes_words() -> None:
    page = page_html(view_html(view(source=["<script>alert(1)</script>", "\"'", "d"])), "<model>")
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert [url for url in re.findall(r"https?://[^\s\"']+", page) if "w3.org" not in url] == []


def test_a_heat_map_is_drawn(tmp_path: Path) -> None:
    draw_heat_map(view(source=["a", "b", "c"], target=["x", "y"]), tmp_path / "pair.png")
    draw_heat_map(view(source=["a", "b", "c"], target=["x", "y"], links={}), tmp_path / "none.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
