"""`python -m pipeline.experiments EXPERIMENT.yaml --out DIR`: train, measure, compare."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.files import write_text
from data_prep.standard_output import print_table, put
from pipeline import command_line


def run(
    experiment: Annotated[Path, typer.Argument(help="YAML file, or the name of one in pipeline/experiments/")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="settings of every arm, as in training")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of all runs")] = Path("experiment"),
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="may be repeated; default: 1, 2, 3")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="only these arms; may be repeated")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time, one rank each")] = 1,
    train: Annotated[bool, typer.Option(help="--no-train: measure and compare what has finished")] = True,
) -> None:
    """Train every arm with every seed, measure the checkpoints, compare; DIR/results.json, DIR/curves.png.

    Run it again to continue after an interruption, or with more seeds.

    Example: python -m pipeline.experiments generated --out generated --jobs 2
    """
    from pipeline.experiments.plan import check_places, common_start, read_experiment, trials

    plan = read_experiment(experiment, settings or [])
    check_places(plan)
    # Measuring needs PyTorch, which takes seconds.
    from pipeline.experiments.compare import ArmOutcome, as_json, draw, tables
    from pipeline.experiments.measure import Yardstick, measure_run, measure_start
    from pipeline.experiments.training import check_start_of_all, has_finished, longest_of, train_all
    from pipeline.run_folder import cost

    yardstick = Yardstick(plan.gold, plan.retrieval, plan.translated, plan.finetuned)
    planned = trials(plan, out, seeds or [1, 2, 3], arms or [])
    if train:
        check_start_of_all(plan, planned, os.environ)
        for trial in planned:
            yardstick.tasks.check(longest_of(trial.config(plan)), trial.arm)
        train_all(plan, planned, jobs)
    finished = [trial for trial in planned if has_finished(plan, trial)]
    if not finished:
        raise ValueError(f"{out}: no run has finished yet; train without --no-train")
    if len(finished) < len(planned):
        left_out = len(planned) - len(finished)
        print(f"note: {left_out} of {len(planned)} runs have not finished and are left out", file=sys.stderr)
    outcomes = []
    for trial in finished:
        teraflops, seconds = cost(trial.out)
        measured = measure_run(trial.out, yardstick, trial.seed)
        outcomes.append(ArmOutcome(trial.arm, trial.seed, measured, teraflops, seconds / 60))
    init = common_start(plan, finished)
    start = measure_start(init, out, yardstick) if init is not None else None
    for drawn in tables(plan, outcomes, start):
        print_table(drawn)
    results = json.dumps(as_json(outcomes, plan.baseline, start), indent=1)
    write_text(out / "results.json", results + "\n")
    draw(outcomes, start, out / "curves.png")
    put(f"{out / 'results.json'}, {out / 'curves.png'}")


def main() -> None:
    command_line.run_one(run)


if __name__ == "__main__":
    main()
