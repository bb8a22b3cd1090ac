"""What a changed setting does to a run that goes on: every field has a fate, keeps it, and docs/restart.md says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch.optim.lr_scheduler import LambdaLR

from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.checkpoints.reshard import load
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.objectives import catalog
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.schema import Config
from pipeline.settings.sizes import scratch_sizes, with_decoder
from pipeline.settings.text_to_text import WRITING
from pipeline.training.resuming import Fate, check_continues, fates, kept_alignment, value_of
from tests.conftest import ROOT

RESTART = ROOT / "docs" / "restart.md"
VOCABULARY = 100
FULL = {
    "data": {"path": "data", "weights": {"mono": {"en": 1.0}, "pairs": {"de-en": 1.0}}},
    "model": {"decoder": {}},
    "objectives": {
        name: {} for name in ("token_contrast", "contrast", "mrtd", "trtd", "sc", "tsc", "tpsc", "dae", "mt")
    },
    "optimizer": {"heads_lr": 1e-3, "heads_first_steps": 5},
    "run": {"out": "run", "wandb": {"project": "p"}},
    "deepspeed": "zero1.json",
}
"""A config without a section that is null, so that every field can be changed."""
CHANGES: dict[str, Any] = {
    "data.schedule": [{"from_step": 5, "alpha": 0.3}],
    "batch.contrast": 1024,
    "objectives.contrast.queue": 65_536,
    "objectives.dwa.cost": "exp",
    "objectives.dwa.similarity": "cosine",
    "objectives.dwa.temperature": 2.0,
    "objectives.mt.directions": ["en-de"],
    "optimizer.betas": [0.8, 0.9],
    "run.wandb": None,
    "model.heads": 6,
    "model.hidden": 1536,
    "model.decoder": {"layers": 3},
    "data.block_tokens": 256,
    "objectives.token_contrast.label_layers": [5, 8],
    **{f"objectives.{name}.density": 0.25 for name in ("sc", "tsc", "tpsc")},
}
"""For fields that not just any value fits."""
FITTING: dict[str, dict[str, Any]] = {
    "objectives.dwa.similarity": {"objectives.dwa.cost": "exp"},
    "objectives.dwa.temperature": {"objectives.dwa.cost": "exp"},
    "objectives.token_contrast.label_layers": {
        "objectives.token_contrast.labels": "layers",
        "objectives.token_contrast.label_layers": [6, 7],
    },
    # Of both, which have one generator, such a field has one value.
    "objectives.mrtd.generator_layers": {"objectives.trtd": None},
    "objectives.mrtd.embeddings": {"objectives.trtd": None},
    "objectives.trtd.generator_layers": {"objectives.mrtd": None},
    "objectives.trtd.embeddings": {"objectives.mrtd": None},
    "optimizer.decay_steps": {"optimizer.schedule": "warmup_stable_decay"},
    "model.keep_layers": {"model.init": "hf"},
    "model.freeze": {
        "model.init": "hf",
        "model.decoder.embeddings": "own",
        **{f"objectives.{name}": None for name in catalog.ENTRIES if name not in WRITING},
    },
}
"""What a change has to have beside it, before and after."""


def fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its type: all that are no sections, and sections that may be null."""
    for name, info in section.model_fields.items():
        kinds = [kind for kind in (info.annotation, *get_args(info.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if get_origin(kind) is None and issubclass(kind, BaseModel)]
        if not sections or get_origin(info.annotation) is list:
            yield prefix + name, info.annotation
            continue
        if sections[0] is not info.annotation:
            yield prefix + name, None
        yield from fields(sections[0], f"{prefix}{name}.")


FIELDS = dict(fields(Config))


def put(content: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        content = content[section]
    content[last] = value


def config_with(changes: dict[str, Any]) -> Config:
    content = Config.model_validate(FULL).model_dump(mode="json")
    for name, value in changes.items():
        put(content, name, value)
    return Config.model_validate(content)


def changed(name: str) -> Config:
    """The full config with another value in this field, which is one that the schema allows."""
    beside = FITTING.get(name, {})
    was = value_of(config_with(beside).model_dump(mode="json"), name)
    literals = [
        word
        for part in (FIELDS[name], *get_args(FIELDS[name]))
        if get_origin(part) is Literal
        for word in get_args(part)
    ]
    candidates = [CHANGES.get(name), not was, 0.5, 3, 1500, "other", *literals, ["other"], {"fr": 1.0}, None]
    for value in candidates if name not in CHANGES else [CHANGES[name]]:
        if value == was:
            continue
        try:
            return config_with({**beside, name: value})
        except ValidationError:
            continue
    raise AssertionError(f"no other value of {name} is known to this test")


def info_of(config: Config, step: int = 4) -> CheckpointInfo:
    encoder = asdict(scratch_sizes(config, VOCABULARY))
    return CheckpointInfo(step, 2, 1, "fp32", str(config.data.path), config.model_dump(mode="json"), encoder)


def goes_on(was: Config, now: Config, step: int = 4) -> str:
    """What is said against going on with another config; empty where nothing is."""
    try:
        check_continues(info_of(was, step), info_of(now, 0))
    except ValueError as error:
        return str(error)
    return ""


def test_every_field_of_the_config_has_a_fate() -> None:
    assert set(fates()) == set(FIELDS)


def test_the_heads_are_those_of_the_objectives(sizes: EncoderConfig) -> None:
    config = config_with({})
    objectives = catalog.build_objectives(config)
    model = PretrainingModel(Encoder(sizes), objectives)
    shared = {id(parameter) for parameter in model.encoder.parameters()}
    assert [objective.name for objective in objectives] == list(catalog.ENTRIES)
    for objective in objectives:
        known = catalog.ENTRIES[objective.name].modules
        assert list(objective.modules(model)) == list(known)
        for name, count in known.items():
            own = [parameter for parameter in model.heads[name].parameters() if id(parameter) not in shared]
            term = config.objectives.active()[objective.name]
            if name == "decoder":
                sizes = with_decoder(sizes, config)
            assert sum(parameter.numel() for parameter in own) == count(term, sizes), "tied tables are the encoder's"


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_changed_field_meets_its_fate(name: str) -> None:
    was, now = config_with(FITTING.get(name, {})), changed(name)
    assert value_of(was.model_dump(mode="json"), name) != value_of(now.model_dump(mode="json"), name)
    message = goes_on(was, now)
    assert "\n" not in message
    if fates()[name] is Fate.REFUSED:
        assert message.startswith(f"{name} = ") and message.endswith("set it back")
    elif fates()[name] is not Fate.CHECKED:
        assert message == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"objectives.dwa": None}, "objectives.dwa: switched off since the checkpoint"),
        ({"objectives.contrast": None}, "objectives.contrast: switched off since the checkpoint"),
        ({"objectives.mlm": None}, ""),
        ({"objectives.sc": None, "objectives.mt": None}, ""),
        ({"objectives.tlm": None}, ""),
        ({"objectives.mlm": None, "objectives.tlm": None}, "objectives.mlm, objectives.tlm: switched off"),
        ({"data.path": "elsewhere"}, "data.path = elsewhere: its manifest differs"),
        ({"model.layers": 6}, r"model: .*\(layers 12, here 6\)"),
        ({"model.hidden": 1536}, r"model: .*\(hidden 768, here 1536\)"),
        ({"model.heads": 6}, r"model: .*\(heads 12, here 6\)"),
        ({"model.feed_forward": 99}, r"model: .*\(feed_forward 3072, here 99\)"),
        ({"model.positions": "gated_relative"}, r"model: .*\(gated_relative False, here True\)"),
        ({"model.init": "hf"}, ""),  # of the same sizes
        ({"optimizer.heads_lr": None}, ""),  # heads_first_steps still sets them apart
        (
            {"optimizer.heads_lr": None, "optimizer.heads_first_steps": 0},
            "optimizer.heads_lr, optimizer.heads_first_steps: ",
        ),
        ({"run.steps": 4}, ""),
        ({"run.steps": 3}, "run.steps = 3: the checkpoint has done 4 already"),
        ({"deepspeed": "zero2.json"}, ""),  # what it says is judged by `reshard.needed`
    ],
)
def test_what_is_checked_is_refused_only_where_it_breaks_the_run(changes: dict[str, Any], expected: str) -> None:
    assert changes.keys() <= {name for name, fate in fates().items() if fate is Fate.CHECKED}
    was, now = config_with({}), config_with(changes)
    for message in (goes_on(was, now), goes_on(now, was) if "run.steps" not in changes else expected):
        assert bool(message) == bool(expected) and "\n" not in message
    assert re.match(expected, goes_on(was, now))


def test_a_module_that_goes_to_another_objective_keeps_its_sizes() -> None:
    blocks = config_with({"objectives.mrtd.generator_layers": 2, "objectives.trtd": None})
    same, other = (
        config_with({"objectives.mrtd": None, "objectives.trtd.generator_layers": layers}) for layers in (2, 3)
    )
    assert goes_on(blocks, same) == ""
    assert goes_on(blocks, other) == (
        "objectives.trtd.generator_layers = 3: the checkpoint's generator was trained with 2, by objectives.mrtd; set it back"
    )


def test_a_checkpoint_of_a_version_that_knew_fewer_settings_had_their_defaults() -> None:
    few = {"data": {"path": "data"}, "model": {}, "objectives": {}, "optimizer": {}}
    minimal = Config.model_validate({**FULL, **few})
    old = info_of(minimal)
    old.config = {
        "run": {"seed": 1, "out": "run"},
        "data": {"path": "data", "alpha": 0.7, "block_tokens": 512, "side_tokens": 254},
        "batch": {"mono": 2048, "pairs": 2048, "micro_steps": 1},
        "optimizer": {"lr": 1e-3},
        "objectives": {"mlm": {}, "tlm": {}, "dwa": {}},
    }
    check_continues(old, info_of(minimal, 0))
    without = {"model.decoder": None, **{f"objectives.{name}": None for name in WRITING}}
    with pytest.raises(ValueError, match=r"data\.weights\.mono = \{'en': 1\.0\}: the checkpoint was trained with \{\}"):
        check_continues(old, info_of(config_with(without), 0))


@pytest.mark.parametrize(
    "name", ["aligner.layer", "aligner.method", "objectives.dwa.alignment_layer", "objectives.dwa.cost"]
)
def test_a_record_of_how_words_align_best_ends_with_the_settings_it_was_made_under(name: str) -> None:
    was = replace(info_of(config_with({})), alignment={"layer": 3})
    assert kept_alignment(was, info_of(config_with({"optimizer.lr": 1.0}))) == {"layer": 3}
    assert kept_alignment(was, info_of(changed(name))) == {}


def documented() -> dict[str, list[str]]:
    """docs/restart.md's table of settings: by pattern of names what is said to become of them."""
    rows: dict[str, list[str]] = {}
    for line in RESTART.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\| (`[a-z].*`) \| \*\*(\w+)\*\*", line):
            for pattern in re.findall(r"`([^`]+)`", found[1]):
                rows.setdefault(pattern, []).append(found[2])
    return rows


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_the_documentation_says_what_becomes_of_a_field(name: str) -> None:
    rows = documented()
    said = rows.get(name) or [fate for pattern, fates in rows.items() if fnmatchcase(name, pattern) for fate in fates]
    assert said == [fates()[name].value]


class Engine:
    """As much of DeepSpeed's engine as loading needs; its checkpoint is another optimizer, with its settings."""

    def __init__(self, lr: float, scale: float, minimum: float) -> None:
        self.basic_optimizer = torch.optim.AdamW([torch.zeros(3, requires_grad=True)], lr=lr, eps=lr / 10)
        self.lr_scheduler = LambdaLR(self.basic_optimizer, lambda step: (step + 1) / 10)
        scaler = SimpleNamespace(
            dynamic=True,
            cur_scale=scale,
            cur_iter=0,
            last_overflow_iter=-1,
            cur_hysteresis=1,
            min_scale=minimum,
            window=lr,
        )
        self.optimizer = SimpleNamespace(loss_scaler=scaler, dynamic_loss_scale=True, clip_grad=lr)

    def load_checkpoint(self, folder: str, tag: str) -> tuple[str, None]:
        other = Engine(0.5, scale=64.0, minimum=1.0)
        other.basic_optimizer.step()
        other.lr_scheduler.step()
        other.optimizer.loss_scaler.cur_iter = 7
        self.basic_optimizer.load_state_dict(other.basic_optimizer.state_dict())
        self.lr_scheduler.load_state_dict(other.lr_scheduler.state_dict())
        self.optimizer.loss_scaler, self.optimizer.clip_grad = other.optimizer.loss_scaler, other.optimizer.clip_grad
        return f"{folder}/{tag}", None


def test_settings_are_the_run_s_and_states_are_the_checkpoint_s() -> None:
    engine = Engine(0.01, scale=32.0, minimum=128.0)
    load(engine, Path("step"), info_of(config_with({})), info_of(config_with({})))
    (group,) = engine.basic_optimizer.param_groups
    assert (group["lr"], group["initial_lr"], group["eps"]) == (0.01 * 2 / 10, 0.01, 0.001)
    engine.basic_optimizer.step()
    engine.lr_scheduler.step()
    assert engine.basic_optimizer.param_groups[0]["lr"] == 0.01 * 3 / 10
    assert engine.optimizer.clip_grad == 0.01
    assert engine.optimizer.loss_scaler.window == 0.01


@pytest.mark.parametrize(("precision", "iteration", "scale"), [("fp32", 7, 128.0), ("bf16", 0, 32.0)])
def test_a_loss_scale_goes_on_where_it_was_in_the_same_precision(precision: str, iteration: int, scale: float) -> None:
    engine = Engine(0.01, scale=32.0, minimum=128.0)
    load(engine, Path("step"), info_of(config_with({})), replace(info_of(config_with({})), precision=precision))
    scaler = engine.optimizer.loss_scaler
    assert (scaler.cur_iter, scaler.cur_scale) == (iteration, scale)
