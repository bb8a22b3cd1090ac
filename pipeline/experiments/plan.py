"""An experiment as a file: one config, several arms that change some of its settings, and what is measured.

config: pipeline/configs/quickstart.yaml
arms:
  xlm-align: {}
  more-tlm: {objectives.tlm.weight: 2}
baseline: xlm-align
gold: [corpus/gold]
retrieval: []
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from data_prep.sections import NotNegative, PathField, Positive, Section, checked, dump_yaml, read_yaml
from pipeline import shipped
from pipeline.settings.schema import Config, load_config


class FineTuning(Section):
    """A task that models are fine-tuned for at the end of training, to be measured by it."""

    task: Literal["classify", "tag", "qa", "generate"] = Field(description="as of the command `finetune`")
    train: list[str] = Field(min_length=1, description="FILE or LANGUAGE=FILE")
    dev: str | None = Field(None, description="FILE or LANGUAGE=FILE by which the best epoch is chosen")
    test: list[str] = Field(min_length=1, description="FILE or LANGUAGE=FILE, one a language")
    settings: dict[str, Any] = Field(
        {}, description="as the options of `finetune`: {epochs: 3, learning_rate: 1.0e-3, train_layers: 1-3}"
    )
    shown: list[str] = Field(min_length=1, description="metrics in the table, as accuracy or exact_match")


class Experiment(Section):
    """What is trained and measured; relative paths are relative to the caller, as in a run's config."""

    config: PathField = Field(description="config of all runs, see pipeline/configs/")
    settings: dict[str, Any] = Field(
        {},
        description="settings that override it in every arm, as {data.path: data}; `{seed}` stands for the run's seed",
    )
    arms: dict[str, dict[str, Any]] = Field(min_length=1, description="settings that override it, by arm")
    baseline: str = Field(description="the arm that the others are compared to")
    gold: list[PathField] = Field(min_length=1, description="gold alignment folders, or folders of such")
    retrieval: list[PathField] = Field([], description="line-aligned files in the layout of PUD or Tatoeba")
    translated: list[PathField] = Field(
        [], description="line-aligned files, likewise, that a model with a decoder translates in both directions"
    )
    finetuned: dict[str, FineTuning] = Field({}, description="tasks that models are fine-tuned for at the end, by name")
    made_by: str | None = Field(None, description="command that makes its data, to be named where that is missing")
    threads: Positive = Field(1, description="of a run, which is one rank")
    measured: NotNegative = Field(0, description="optimizer steps between measurements; 0: at the end")

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> Experiment:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline = {self.baseline!r} is none of the arms: {', '.join(self.arms)}")
        return self


@dataclass(frozen=True)
class Trial:
    """One training: an arm with a seed."""

    arm: str
    seed: int
    out: Path
    overrides: tuple[str, ...]

    def config(self, experiment: Experiment) -> Config:
        return load_config(experiment.config, self.overrides)


def read_experiment(path: Path, settings: Sequence[str] = ()) -> Experiment:
    """Read an experiment, a file or a shipped one by name; `settings` (`key=value`) override its config in every arm.

    Raises:
        ValueError: the file cannot be read, or is none; names field and value, and what to do.
    """
    path = shipped.experiment_path(path)
    experiment = checked(Experiment, read_yaml(path, "experiment"), str(path))
    for setting in settings:
        if "=" not in setting:
            raise ValueError(f"override {setting!r}: write key=value, for example optimizer.lr=1e-4")
    given = dict(setting.partition("=")[::2] for setting in settings)
    return experiment.model_copy(update={"settings": {**experiment.settings, **given}})


def check_places(experiment: Experiment) -> None:
    """ValueError where the gold folders or sentences are not there, with the command that makes them if there is one."""
    places = [(field, place) for field in ("gold", "retrieval", "translated") for place in getattr(experiment, field)]
    for name, task in experiment.finetuned.items():
        files = [*task.train, *([task.dev] if task.dev else []), *task.test]
        places += [(f"finetuned.{name}", Path(file.partition("=")[2] or file)) for file in files]
    for field, place in places:
        if not place.exists():
            mend = f"make it with `{experiment.made_by}`" if experiment.made_by else "give the folder's path"
            raise ValueError(f"{field}: {place}: no such file or folder; {mend}")


def trials(experiment: Experiment, out: Path, seeds: Sequence[int], arms: Sequence[str] = ()) -> list[Trial]:
    """Every arm (or those named) with every seed, seed by seed, so that what is there can be compared early.

    Raises:
        ValueError: there is no such arm, or an arm's config is wrong.
    """
    for arm in arms:
        if arm not in experiment.arms:
            raise ValueError(f"--arm {arm}: choose of {', '.join(experiment.arms)}")
    found = []
    for seed in seeds:
        for arm in arms or experiment.arms:
            folder = out / arm / f"seed_{seed}"
            fixed: dict[str, Any] = {"run.out": str(folder), "run.seed": seed}
            if experiment.measured:
                fixed |= {"run.save_every": experiment.measured, "run.keep": 1, "run.keep_every": experiment.measured}
            settings = {**experiment.settings, **experiment.arms[arm], **fixed}
            texts = {key: _text(value).replace("{seed}", str(seed)) for key, value in settings.items()}
            trial = Trial(arm, seed, folder, tuple(f"{key}={text}" for key, text in texts.items()))
            trial.config(experiment)
            found.append(trial)
    return found


def common_start(experiment: Experiment, trials: Sequence[Trial]) -> Path | None:
    """The model that all runs start from; None where they start from scratch, or seeds from a model each."""
    inits = {trial.config(experiment).model.init for trial in trials}
    return inits.pop() if len(inits) == 1 else None


def _text(value: Any) -> str:
    """A setting as one writes it on a command line."""
    return value if isinstance(value, str) else dump_yaml(value, one_line=True)
