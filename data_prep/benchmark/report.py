"""A benchmark's figures as a table on the terminal and as a picture. Knows entries (see `__main__.entry`), nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_prep.files import output_place

Entry = dict[str, Any]
PLAIN_WIDTH = 140  # where there is no terminal


def print_table(entries: list[Entry], note: str) -> None:
    """One row per figure, with its ratios to other contenders."""
    table = Table(title="data_prep against its peers", caption=note)
    for name in ("what", "contender"):
        table.add_column(name)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("ratio")
    for entry in entries:
        ratios = "\n".join(f"{ratio:.2f} × {other}" for other, ratio in entry["ratio_to"].items())
        table.add_row(entry["name"], entry["contender"], f"{entry['value']:.3g}", entry["unit"], ratios)
    console = Console()
    Console(width=None if console.is_terminal else PLAIN_WIDTH).print(table)


def draw_picture(entries: list[Entry], path: Path) -> None:
    """A PNG with one bar chart per kind of figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry["name"], entry["unit"]), []).append(entry)
    heights = [len(members) + 1 for members in groups.values()]
    figure, axes = pyplot.subplots(
        len(groups), 1, figsize=(9, 0.45 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for axis, ((name, unit), members) in zip(axes[:, 0], groups.items(), strict=True):
        labels = [entry["contender"] for entry in members]
        colors = ["#4c78a8" if "data_prep" in label or name == "reading" else "#bbbbbb" for label in labels]
        bars = axis.barh(labels, [entry["value"] for entry in members], color=colors)
        axis.bar_label(bars, fmt="%.3g", padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(f"{name}, {unit}", loc="left")
    figure.tight_layout()
    with output_place(path) as place:
        figure.savefig(place, format="png", dpi=110)
    pyplot.close(figure)
