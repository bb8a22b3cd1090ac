"""The arms of an experiment side by side: AER and retrieval by arm, differences to the baseline, curves over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.table import Table

from pipeline.experiments.measure import (
    TRANSLATED,
    Measurement,
    best_retrieval,
    chosen_layer,
    mean_aer,
    mean_translation,
    reported_aer,
)
from pipeline.experiments.plan import Experiment
from pipeline.show.picture import save_picture


@dataclass
class ArmOutcome:
    """What came of one trial."""

    arm: str
    seed: int
    measured: dict[int, Measurement]
    """By step."""
    teraflops: float
    """Operations of the training, in units of 10^12, by the rules of `pipeline/model/flops.py`."""
    minutes: float
    """Of its steps: with whatever else ran beside it."""

    @property
    def last(self) -> Measurement:
        """At the end."""
        return self.measured[max(self.measured)]

    def curve(self) -> tuple[list[int], list[float]]:
        """Steps, and mean AER over pairs at the layer chosen then."""
        return list(self.measured), [mean_aer(each["aer"]) for each in self.measured.values()]


def differences(outcomes: Sequence[ArmOutcome], arm: str, baseline: str) -> list[float]:
    """Mean AER of the arm less the baseline's, of every seed that both have."""
    by_seed = {o.seed: mean_aer(o.last["aer"]) for o in outcomes if o.arm == baseline}
    return [mean_aer(o.last["aer"]) - by_seed[o.seed] for o in outcomes if o.arm == arm and o.seed in by_seed]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two values or more."""
    return stdev(values) / len(values) ** 0.5


def tables(experiment: Experiment, outcomes: Sequence[ArmOutcome], start: Measurement | None) -> list[Table]:
    """All that an experiment measures."""
    drawn = [table(outcomes, experiment.baseline, start), pair_table(outcomes, start)]
    if experiment.translated:
        drawn += [translation_table(outcomes), direction_table(outcomes)]
    return drawn + [task_table(outcomes, start, name, task.shown) for name, task in experiment.finetuned.items()]


def table(outcomes: Sequence[ArmOutcome], baseline: str, start: Measurement | None) -> Table:
    """A row an arm: means over seeds with their standard errors, and the difference to the baseline, seed by seed."""
    columns = (
        "AER",
        "by seed",
        "layer",
        f"AER minus {baseline}'s",
        "argmax, separate",
        "retrieval %",
        "TFLOP",
        "minutes",
    )
    title = "AER in %, mean over pairs, at the layer chosen on the other halves (lower is better)"
    drawn = _empty(title, columns)
    if start is not None:
        drawn.add_row("start", *_cells([start]))
    for arm in dict.fromkeys(o.arm for o in outcomes):
        of_arm = [o for o in outcomes if o.arm == arm]
        less = [100 * value for value in differences(outcomes, arm, baseline)] if arm != baseline else []
        teraflops, minutes = mean(o.teraflops for o in of_arm), mean(o.minutes for o in of_arm)
        drawn.add_row(arm, *_cells([o.last for o in of_arm], less), f"{teraflops:,.1f}", f"{minutes:.1f}")
    return drawn


def _empty(title: str, columns: Sequence[str]) -> Table:
    drawn = Table(title=title)
    drawn.add_column("arm")
    for column in columns:
        drawn.add_column(column, justify="right")
    return drawn


def _cells(measured: Sequence[Measurement], less: Sequence[float] = ()) -> list[str]:
    """What was measured of one or more models, as the table has it."""
    aers = [100 * mean_aer(each["aer"]) for each in measured]
    separate = [100 * mean_aer(each["aer_argmax_separate"]) for each in measured]
    retrieval = [100 * found[1] for found in map(best_retrieval, measured) if found is not None]
    return [
        with_error(aers),
        " ".join(f"{aer:.2f}" for aer in aers) if len(aers) > 1 else "",
        " ".join(str(chosen_layer(each["aer"])) for each in measured),
        with_error(less, sign="+"),
        with_error(separate),
        with_error(retrieval),
    ]


def with_error(values: Sequence[float], sign: str = "-") -> str:
    """Mean ± standard error; nothing of nothing. sign: "+" where a difference is to show its own."""
    if not values:
        return ""
    return f"{mean(values):{sign}.2f}" + (f" ± {standard_error(values):.2f}" if len(values) > 1 else "")


def pair_table(outcomes: Sequence[ArmOutcome], start: Measurement | None) -> Table:
    """AER by pair, a row an arm, the mean over its seeds."""
    rows = {} if start is None else {"start": [reported_aer(start["aer"])]}
    for outcome in outcomes:
        rows.setdefault(outcome.arm, []).append(reported_aer(outcome.last["aer"]))
    pairs = list(next(iter(rows.values()))[0])
    drawn = _empty("AER in % by pair", pairs)
    for arm, aers in rows.items():
        drawn.add_row(arm, *(f"{100 * mean(aer[pair] for aer in aers):.2f}" for pair in pairs))
    return drawn


def translation_table(outcomes: Sequence[ArmOutcome]) -> Table:
    """BLEU, chrF and exact match after each of the measured steps, a row an arm: means over directions, then over seeds."""
    steps = sorted({step for outcome in outcomes for step in outcome.measured})
    columns = [f"{score}, step {step:,}" for score in TRANSLATED.values() for step in steps]
    drawn = _empty("translations, greedy, mean over directions, in %", columns)
    for arm in dict.fromkeys(o.arm for o in outcomes):
        cells = []
        for score in TRANSLATED:
            for step in steps:
                measured = [o.measured[step] for o in outcomes if o.arm == arm and step in o.measured]
                found = [mean_translation(each, score) for each in measured]
                cells.append(with_error([value for value in found if value is not None]))
        drawn.add_row(arm, *cells)
    return drawn


def direction_table(outcomes: Sequence[ArmOutcome]) -> Table:
    """chrF and exact match at the end by direction, a row an arm: means over seeds."""
    found: dict[str, list[dict[str, dict[str, float]]]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.arm, []).append(outcome.last.get("translation", {}))
    directions = list(dict.fromkeys(direction for of_arm in found.values() for each in of_arm for direction in each))
    scores = [score for score in TRANSLATED if score != "bleu"]
    drawn = _empty(
        "translations at the end by direction, in %", [f"{TRANSLATED[s]}, {d}" for s in scores for d in directions]
    )
    for arm, of_arm in found.items():
        cells = (with_error([each[d][s] for each in of_arm if d in each]) for s in scores for d in directions)
        drawn.add_row(arm, *cells)
    return drawn


def task_table(outcomes: Sequence[ArmOutcome], start: Measurement | None, task: str, shown: Sequence[str]) -> Table:
    """Scores of a task by language, a row an arm, means over seeds; arms that cannot do the task are left out."""
    rows: dict[str, list[Measurement]] = {} if start is None else {"start": [start]}
    for outcome in outcomes:
        rows.setdefault(outcome.arm, []).append(outcome.last)
    found = {arm: [each["finetuned"][task] for each in of if task in each["finetuned"]] for arm, of in rows.items()}
    languages = list(dict.fromkeys(language for scores in found.values() for each in scores for language in each))
    columns = [f"{metric}, {language}" for metric in shown for language in languages]
    drawn = _empty(f"{task}, fine-tuned, in %", columns)
    for arm, scores in found.items():
        if scores:
            cells = (
                with_error([each[lang][m] for each in scores if m in each[lang]]) for m in shown for lang in languages
            )
            drawn.add_row(arm, *cells)
    return drawn


def as_json(outcomes: Sequence[ArmOutcome], baseline: str, start: Measurement | None) -> dict[str, Any]:
    """All that was measured, and the comparison."""
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(o.arm for o in outcomes):
        aers = [mean_aer(o.last["aer"]) for o in outcomes if o.arm == arm]
        less = differences(outcomes, arm, baseline)
        arms[arm] = {"aer": mean(aers)} | ({"less_baseline": mean(less)} if less else {})
        if len(aers) > 1:
            arms[arm] |= {"aer_error": standard_error(aers)}
        if len(less) > 1:
            arms[arm] |= {"less_baseline_error": standard_error(less)}
    runs = [
        {"arm": o.arm, "seed": o.seed, "layer": chosen_layer(o.last["aer"]), "aer": reported_aer(o.last["aer"])}
        | {"teraflops": o.teraflops, "minutes": o.minutes, "measured": o.measured}
        for o in outcomes
    ]
    return {"baseline": baseline, "arms": arms, "start": start, "runs": runs}


def draw(outcomes: Sequence[ArmOutcome], start: Measurement | None, path: Path) -> None:
    """AER over steps and over operations into a PNG, a thin line a trial, a colour an arm."""
    arms = list(dict.fromkeys(o.arm for o in outcomes))
    colours: Mapping[str, Any] = {arm: plt.get_cmap("tab10")(index % 10) for index, arm in enumerate(arms)}
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), sharey=True)
    for outcome in outcomes:
        steps, values = outcome.curve()
        spent = [outcome.teraflops * step / max(steps) for step in steps]
        first = outcome is next(o for o in outcomes if o.arm == outcome.arm)
        label = outcome.arm if first else None
        if start is not None:
            steps, spent, values = [0, *steps], [0.0, *spent], [mean_aer(start["aer"]), *values]
        for axis, places in zip(axes, (steps, spent), strict=True):
            axis.plot(places, values, color=colours[outcome.arm], lw=1.2, marker=".", label=label)
    axes[0].set(xlabel="optimizer steps", ylabel="AER, mean over pairs")
    axes[1].set(xlabel="operations, TFLOP")
    for axis in axes:
        axis.grid(visible=True, color="#dddddd", lw=0.5)
        axis.legend(fontsize="small")
    figure.tight_layout()
    save_picture(figure, path)
