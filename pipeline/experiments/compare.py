"""The arms of an experiment side by side: AER and retrieval by arm, differences to the baseline, curves over steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.table import Table

from pipeline.experiments.measure import Measurement, chosen_layer, reported_aer


@dataclass
class Outcome:
    """What came of one trial."""

    arm: str
    seed: int
    measured: dict[int, Measurement]
    """By step."""
    teraflops: float
    """Operations of the training, in units of 10^12, by the rules of `pipeline/flops.py`."""
    minutes: float
    """Of its steps: with whatever else ran beside it."""
    aer: dict[str, float] = field(init=False)
    """At the end, by pair, at the layer that the other halves chose."""
    layer: int = field(init=False)

    def __post_init__(self) -> None:
        last = self.measured[max(self.measured)]
        self.aer, self.layer = reported_aer(last), chosen_layer(last)

    @property
    def retrieval(self) -> tuple[int, float] | None:
        """The layer with the best mean accuracy over pairs, and that."""
        found = self.measured[max(self.measured)]["retrieval"]
        if not found:
            return None
        by_layer = [mean(values) for values in zip(*found.values(), strict=True)]
        layer = max(range(len(by_layer)), key=by_layer.__getitem__)
        return layer, by_layer[layer]

    def curve(self) -> tuple[list[int], list[float]]:
        """Steps, and mean AER over pairs at the layer chosen then."""
        return list(self.measured), [mean(reported_aer(each).values()) for each in self.measured.values()]


def read_cost(run: Path) -> tuple[float, float]:
    """(operations in 10^12, minutes) of a run's steps, from its metrics."""
    teraflops, seconds, before = 0.0, 0.0, 0
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        if values["kind"] == "train" and values["step"] > before:
            spent = values["seconds_per_step"] * (values["step"] - before)
            teraflops, seconds, before = (
                teraflops + spent * values["tflops_per_device"],
                seconds + spent,
                values["step"],
            )
    return teraflops, seconds / 60


def differences(outcomes: Sequence[Outcome], arm: str, baseline: str) -> list[float]:
    """Mean AER of the arm less the baseline's, of every seed that both have."""
    by_seed = {o.seed: mean(o.aer.values()) for o in outcomes if o.arm == baseline}
    return [mean(o.aer.values()) - by_seed[o.seed] for o in outcomes if o.arm == arm and o.seed in by_seed]


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of two values or more."""
    return stdev(values) / len(values) ** 0.5


def table(outcomes: Sequence[Outcome], baseline: str, start: Measurement | None) -> Table:
    """A row an arm: mean AER over pairs and seeds with its standard error, and the difference, seed by seed."""
    drawn = Table(title="AER in %, mean over pairs, at the layer chosen on the other halves (lower is better)")
    for column in ("arm", "AER", "by seed", "layer", f"less {baseline}", "retrieval %", "TFLOP", "minutes"):
        drawn.add_column(column, justify="left" if column == "arm" else "right")
    if start is not None:
        drawn.add_row("start", f"{100 * mean(reported_aer(start).values()):.2f}", "", str(chosen_layer(start)))
    for arm in dict.fromkeys(o.arm for o in outcomes):
        of_arm = [o for o in outcomes if o.arm == arm]
        aers = [100 * mean(o.aer.values()) for o in of_arm]
        less = [100 * value for value in differences(outcomes, arm, baseline)] if arm != baseline else []
        found = [o.retrieval for o in of_arm if o.retrieval is not None]
        drawn.add_row(
            arm,
            with_error(aers),
            " ".join(f"{aer:.2f}" for aer in aers),
            " ".join(str(o.layer) for o in of_arm),
            with_error(less) if less else "",
            with_error([100 * accuracy for _, accuracy in found]) if found else "",
            f"{mean(o.teraflops for o in of_arm):,.1f}",
            f"{mean(o.minutes for o in of_arm):.1f}",
        )
    return drawn


def with_error(values: Sequence[float]) -> str:
    """Mean ± standard error."""
    return f"{mean(values):.2f}" + (f" ± {standard_error(values):.2f}" if len(values) > 1 else "")


def pair_table(outcomes: Sequence[Outcome], start: Measurement | None) -> Table:
    """AER by pair, a row an arm, the mean over its seeds."""
    pairs = list(outcomes[0].aer)
    drawn = Table(title="AER in % by pair")
    for column in ("arm", *pairs):
        drawn.add_column(column, justify="left" if column == "arm" else "right")
    if start is not None:
        drawn.add_row("start", *(f"{100 * aer:.2f}" for aer in reported_aer(start).values()))
    for arm in dict.fromkeys(o.arm for o in outcomes):
        of_arm = [o.aer for o in outcomes if o.arm == arm]
        drawn.add_row(arm, *(f"{100 * mean(aer[pair] for aer in of_arm):.2f}" for pair in pairs))
    return drawn


def as_json(outcomes: Sequence[Outcome], baseline: str, start: Measurement | None) -> dict[str, Any]:
    """All that was measured, and the comparison."""
    arms: dict[str, Any] = {}
    for arm in dict.fromkeys(o.arm for o in outcomes):
        aers = [mean(o.aer.values()) for o in outcomes if o.arm == arm]
        less = differences(outcomes, arm, baseline)
        arms[arm] = {"aer": mean(aers)} | ({"less_baseline": mean(less)} if less else {})
        if len(aers) > 1:
            arms[arm] |= {"aer_error": standard_error(aers)}
        if len(less) > 1:
            arms[arm] |= {"less_baseline_error": standard_error(less)}
    runs = [
        {"arm": o.arm, "seed": o.seed, "layer": o.layer, "aer": o.aer, "retrieval": o.retrieval}
        | {"teraflops": o.teraflops, "minutes": o.minutes, "measured": o.measured}
        for o in outcomes
    ]
    return {"baseline": baseline, "arms": arms, "start": start, "runs": runs}


def draw(outcomes: Sequence[Outcome], start: Measurement | None, path: Path) -> None:
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
            steps, spent, values = [0, *steps], [0.0, *spent], [mean(reported_aer(start).values()), *values]
        for axis, places in zip(axes, (steps, spent), strict=True):
            axis.plot(places, values, color=colours[outcome.arm], lw=1.2, marker=".", label=label)
    axes[0].set(xlabel="optimizer steps", ylabel="AER, mean over pairs")
    axes[1].set(xlabel="operations, TFLOP")
    for axis in axes:
        axis.grid(visible=True, color="#dddddd", lw=0.5)
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
