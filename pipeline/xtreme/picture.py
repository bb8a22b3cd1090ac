"""Scores by language as a picture: a row a language, those of a family together, a column a task."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pipeline.show.picture import save_picture
from pipeline.xtreme.languages import LANGUAGES
from pipeline.xtreme.results import Outcome


def draw_by_language(outcome: Outcome, path: Path) -> bool:
    """Draw a PNG; False, and nothing, where no task has a score."""
    columns = {result.task.title: result.means() for result in outcome.results if result.languages}
    languages = [each for each in LANGUAGES if any(each in means for means in columns.values())]
    if not languages:
        return False
    languages.sort(key=lambda each: (LANGUAGES[each].family, each))
    values = np.array([[means.get(each, np.nan) for means in columns.values()] for each in languages])
    figure, axis = plt.subplots(figsize=(3 + 0.9 * len(columns), 1.5 + 0.28 * len(languages)))
    shades = axis.imshow(values, cmap="viridis", aspect="auto", vmin=0, vmax=100)
    for row, column in np.argwhere(~np.isnan(values)):
        value = values[row, column]
        color = "black" if value > 60 else "white"
        axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize="small", color=color)
    axis.set_xticks(range(len(columns)), list(columns))
    axis.set_yticks(range(len(languages)), [f"{each}  {LANGUAGES[each].family}" for each in languages])
    axis.set_title(f"{Path(outcome.model).name}, {outcome.mode}", fontsize="medium", loc="left")
    figure.colorbar(shades, ax=axis, label="per cent")
    figure.tight_layout()
    save_picture(figure, path)
    return True
