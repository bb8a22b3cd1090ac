"""The tables of a run: the row beside published ones, scores by language, by family and by script, and the transfer gap.

A table is rows of words, which are then drawn for a terminal, as Markdown or as LaTeX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from pipeline.xtreme.catalog import ROW, TASKS
from pipeline.xtreme.languages import LANGUAGES, by_kin
from pipeline.xtreme.published import ROWS, Figure
from pipeline.xtreme.results import Outcome, TaskResult

NOTHING = "–"
_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "±": r"$\pm$", "–": "--"}


@dataclass(frozen=True)
class Words:
    """A table: its title, the columns' heads, and rows, of which the first so many are the user's own."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    own: int = 0
    """A line is drawn under so many rows."""


def tables_of(outcome: Outcome) -> list[Words]:
    """All tables, the row first; those without a score are left out."""
    scored = [result for result in outcome.results if result.languages]
    made = [_row(outcome)]
    if scored:
        made += [_by_task(scored), _by_language(scored)]
        made += [
            _by_kin("by language family, English left out", "family", scored, True),
            _by_kin("by script, English left out", "script", scored, False),
        ]
    return [table for table in made if table.rows]


def _row(outcome: Outcome) -> Words:
    of_task = {result.task.name: result for result in outcome.results}
    average = outcome.average
    own = [outcome.model, *(_own_figure(of_task.get(name)) for name in ROW), average.words() if average else NOTHING]
    rows = [[row.model, *(_published(row.figures[name]) for name in ROW), f"{row.average:.1f}"] for row in ROWS]
    heads = ["model", *(TASKS[name].title for name in ROW), "avg"]
    return Words("XTREME; question answering: F1 / exact match, whose mean counts", heads, [own, *rows], own=1)


def _own_figure(result: TaskResult | None) -> str:
    if result is None or not result.languages:
        return NOTHING
    if result.task.kind != "qa":
        figure = result.overall()
        return NOTHING if figure is None else figure.words()
    both = [result.overall(metric) for metric in ("f1", "exact_match")]
    return " / ".join(f"{figure.mean:.1f}" for figure in both if figure is not None)


def _published(figure: Figure) -> str:
    return " / ".join(f"{each:.1f}" for each in figure) if isinstance(figure, tuple) else f"{figure:.1f}"


def _by_task(results: Sequence[TaskResult]) -> Words:
    """Every task's mean with its deviation, and what is lost on the way from English."""
    rows = []
    for result in results:
        overall, gap = result.overall(), result.gap
        assert overall is not None, "asked of scored ones"
        means = result.means()
        english = f"{means['en']:.1f}" if "en" in means else NOTHING
        count = f"{len(means)} of {len(result.task.languages)}"
        rows.append([result.task.title, overall.words(2), count, english, NOTHING if gap is None else f"{gap:.1f}"])
    heads = ["task", "mean", "languages", "English", "transfer gap"]
    return Words("by task; transfer gap: English minus the mean of the others", heads, rows)


def _by_language(results: Sequence[TaskResult]) -> Words:
    means = {result.task.title: result.means() for result in results}
    rows = []
    for language, kin in sorted(LANGUAGES.items(), key=lambda each: (each[1], each[0])):
        cells = [f"{of_one[language]:.1f}" if language in of_one else NOTHING for of_one in means.values()]
        if any(cell != NOTHING for cell in cells):
            rows.append([language, kin.family, kin.script, *cells])
    return Words("by language", ["language", "family", "script", *means], rows)


def _by_kin(title: str, head: str, results: Sequence[TaskResult], families: bool) -> Words:
    of_task = [by_kin(result.means(), lambda kin: kin.family if families else kin.script) for result in results]
    names = sorted({name for groups in of_task for name in groups})
    rows = [[name, *(f"{groups[name]:.1f}" if name in groups else NOTHING for groups in of_task)] for name in names]
    return Words(title, [head, *(result.task.title for result in results)], rows)


def for_terminal(table: Words) -> Table:
    """A table that rich prints."""
    grid = Table(title=table.title, title_justify="left")
    for number, head in enumerate(table.heads):
        grid.add_column(head, justify="right" if number else "left")
    for number, row in enumerate(table.rows, start=1):
        grid.add_row(*row, end_section=number == table.own)
    return grid


def as_markdown(tables: Sequence[Words], notes: Sequence[str]) -> str:
    """All tables, and the notes under the first."""
    parts = []
    for number, table in enumerate(tables):
        lines = [f"**{table.title}**", "", _bars(table.heads), _bars(["---"] + ["---:"] * (len(table.heads) - 1))]
        lines += [_bars([cell.replace("|", r"\|") for cell in row]) for row in table.rows]
        if number == 0 and notes:
            lines += ["", *(f"- {note}" for note in notes)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _bars(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_latex(tables: Sequence[Words], notes: Sequence[str]) -> str:
    """All tables as `tabular` with the rules of the package booktabs; notes as comments above the first."""
    parts = ["".join(f"% {note}\n" for note in notes)]
    for table in tables:
        lines = [f"% {table.title}", rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}", r"\toprule"]
        lines += [_ampersands(table.heads), r"\midrule"]
        for number, row in enumerate(table.rows, start=1):
            lines += [_ampersands(row)] + [r"\midrule"] * (number == table.own)
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]))
    return "\n".join(parts)


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(sign, sign) for sign in cell) for cell in cells) + r" \\"
