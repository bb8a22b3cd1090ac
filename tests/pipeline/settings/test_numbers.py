"""No number of a config, a mix, an experiment or a command is NaN, infinite, or too large to be calculated with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel

from data_prep.plan.mix import Mix
from data_prep.sections import Section, checked
from data_prep.standard_output import DataCommand
from pipeline.data.blend import Stage
from pipeline.experiments.plan import Experiment
from pipeline.settings.deepspeed_json import load_deepspeed_json
from pipeline.settings.schema import Config

LEAST: dict[type[Section], dict[str, Any]] = {
    Config: {
        "data": {"path": "d", "schedule": [{"from_step": 1}]},
        "run": {"out": "o", "wandb": {"project": "p"}},
        "deepspeed": "z.json",
    },
    Mix: {"corpora": [{"mono": "en", "files": "x"}]},
    Experiment: {"config": "c", "arms": {"a": {}}, "baseline": "a", "gold": ["g"]},
}
"""A file of each kind with as little in it as may be."""
BAD = {"float": [math.inf, -math.inf, math.nan, 10**400], "int": [2**63, 2**64, -(2**64), 10**400]}
Place = tuple[str | int, ...]


def numbers(section: type[BaseModel], path: Place = ()) -> Iterator[tuple[Place, str, str]]:
    """Every field that is or holds numbers: where it is, of which kind, and in what it holds them."""
    for name, info in section.model_fields.items():
        kinds = [part for part in (info.annotation, *get_args(info.annotation)) if isinstance(part, type)]
        sections = [part for part in kinds if get_origin(part) is None and issubclass(part, BaseModel)]
        if sections:
            within = (0,) if get_origin(info.annotation) is list else ()
            yield from numbers(sections[0], (*path, name, *within))
            continue
        words = str(info.annotation)
        kind = "float" if "float" in words else "int" if "int" in words.replace("Literal", "") else None
        if kind and "Any" not in words:
            yield (*path, name), kind, next((holder for holder in ("dict", "list") if holder in words), "")


def put(content: Any, path: Place, value: object) -> None:
    *sections, last = path
    for section in sections:
        content = content[section] if isinstance(section, int) else content.setdefault(section, {})
    content[last] = value


CASES = [(schema, *case) for schema in LEAST for case in numbers(schema)]


def test_the_walk_finds_the_numbers() -> None:
    found = {".".join(map(str, path)) for _, path, _, _ in CASES}
    assert found >= {
        "optimizer.betas",
        "data.weights.mono",
        "data.schedule.0.alpha",
        "run.seed",
        "mono_filters.lang_id",
    }


@pytest.mark.parametrize(("schema", "path", "kind", "holder"), CASES, ids=lambda part: str(part).replace(" ", ""))
def test_a_number_that_none_can_calculate_with_is_refused(
    schema: type[Section], path: Place, kind: str, holder: str
) -> None:
    checked(schema, LEAST[schema], "file")
    for number in BAD[kind]:
        content = deepcopy(LEAST[schema])
        put(content, path, {"dict": {"en": number}, "list": [number, 0.5]}.get(holder, number))
        with pytest.raises(ValueError, match=r"^file: " + r"\.".join(map(str, path))) as caught:
            checked(schema, content, "file")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("field", ["optimizer.lr", "optimizer.weight_decay", "objectives.mlm.weight", "model.init_std"])
def test_a_rate_that_is_infinite_in_fp32_is_refused(field: str) -> None:
    content = deepcopy(LEAST[Config])
    put(content, tuple(field.split(".")), 1e39)
    with pytest.raises(ValueError, match=rf"{field} = 1e\+39: input should be less than"):
        checked(Config, content, "file")


def test_weights_whose_sum_is_infinite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.weights: their sum is infinite"):
        Stage(0, weights={"de": 1e308, "en": 1e308}).shares(["de", "en"], [1, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"fp16": {"loss_scale": Infinity}}', "Infinity is no finite number"),
        ('{"unknown": 1e999}', "1e999 is no finite number"),
        ('{"zero_optimization": {"sub_group_size": NaN}}', "NaN is no finite number"),
        (
            '{"zero_optimization": {"sub_group_size": 99999999999999999999}}',
            r"sub_group_size = 9+: input should be less",
        ),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_numbers_of_the_deepspeed_file_too(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"zero\.json: .*{message}"):
        load_deepspeed_json(tmp_path / "zero.json")


@pytest.fixture
def command() -> Callable[..., object]:
    """A command with an option of each kind of number, as every command of the project is made."""
    app = typer.Typer()

    @app.command(cls=DataCommand)
    def do(rate: float = 1.0, count: int = 1) -> None:
        pass

    return lambda *words: app(words, standalone_mode=False)


@pytest.mark.parametrize(
    "words", [("--rate", "nan"), ("--rate", "inf"), ("--count", str(2**63)), ("--count", str(-(2**64)))]
)
def test_numbers_of_commands_too(command: Callable[..., object], words: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=rf"^{words[0]} {words[1]}: must be"):
        command(*words)
    command("--rate", "-1e300", "--count", str(2**63 - 1))
