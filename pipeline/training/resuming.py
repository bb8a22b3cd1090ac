"""What becomes of each setting when a run goes on from a checkpoint: one table, and the refusals that it promises.

Objectives' settings are not in the table: they are used, unless the schema marks one as fixed.

Knows configs and what a checkpoint's manifest says; nothing of tensors. What DeepSpeed would otherwise take from a checkpoint
instead of from the config is put right in `reshard.load`.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.objectives import catalog
from pipeline.settings.fixed import FIXED
from pipeline.settings.objectives import Term
from pipeline.settings.schema import Config, Data, Run


class Fate(Enum):
    """What a changed value does to a run that goes on."""

    USED = "used"  # the new value counts from the first step on
    REFUSED = "refused"  # the run ends with one line
    CHECKED = "checked"  # used, or without effect, as long as what is said in `check_continues` stays; else refused
    UNUSED = "unused"  # only a new run reads it


_BY_FATE: dict[Fate, dict[str, str]] = {
    Fate.USED: {
        "model": "dropout",
        "batch": "micro_steps",
        "optimizer": "lr betas eps weight_decay clip warmup_steps schedule decay_steps decay_power",
        "validation": "every data samples batch gold gold_pairs retrieval retrieval_sentences shown_pairs",
        "aligner": "layer method encoding",
        "run": "out log_every save_every keep keep_every time_limit_minutes non_finite_steps timeout_minutes wandb",
        "run.wandb": "project name entity tags mode",
    },
    Fate.REFUSED: {
        "data": "alpha schedule block_tokens side_tokens",
        "model": "freeze",
        "model.decoder": "layers layout embeddings tag sentinels",
        "data.weights": "mono pairs",
        "batch": "mono pairs contrast",
        "optimizer": "adam",
        "run": "seed",
    },
    Fate.CHECKED: {
        "": "deepspeed",  # by `reshard.needed`
        "data": "path",
        "model": "init layers hidden heads feed_forward positions keep_layers decoder",
        "optimizer": "heads_lr heads_first_steps",
        "run": "steps",
    },
    Fate.UNUSED: {"model": "init_std", "model.decoder": "start cross_attention"},
}


@cache
def fates() -> dict[str, Fate]:
    """Every field of the config, by its name in overrides; a section that may be null is a field too."""
    found = {
        f"{section}.{name}".lstrip("."): fate
        for fate, sections in _BY_FATE.items()
        for section, names in sections.items()
        for name in names.split()
    }
    for objective, term in catalog.settings().items():
        found[f"objectives.{objective}"] = Fate.CHECKED
        for name, field in term.model_fields.items():
            fixed = field.json_schema_extra == FIXED
            found[f"objectives.{objective}.{name}"] = Fate.REFUSED if fixed else Fate.USED
    return found


@cache
def _defaults() -> dict[str, Any]:
    return Config(data=Data(path=Path()), run=Run(out=Path()), deepspeed=Path()).model_dump(mode="json")


def _deciding_alignment() -> list[str]:
    """The fields that say how words are aligned, or are labelled."""
    labelling = [
        f"objectives.{objective}.{name}"
        for objective, term in catalog.settings().items()
        if catalog.ENTRIES[objective].labelling is not None
        for name in term.model_fields.keys() - Term.model_fields.keys()
    ]
    return [*(name for name in fates() if name.startswith("aligner.")), *labelling]


def value_of(config: dict[str, Any], name: str) -> Any:
    """A field's value in a dumped config: the default where an older version knew no such field, None in a null section."""
    for place in (config, _defaults()):
        value: Any = place
        for key in name.split("."):
            if value is None:
                return None
            if key not in value:
                break
            value = value[key]
        else:
            return value
    raise KeyError(name)


def check_continues(info: CheckpointInfo, now: CheckpointInfo) -> None:
    """ValueError where this run would not see the samples, model or partition that the checkpointed one would have."""
    for name in (name for name, fate in fates().items() if fate is Fate.REFUSED):
        was, wants = value_of(info.config, name), value_of(now.config, name)
        # A term that was switched on or off has no value on one side, and is `_check_heads`'s business.
        switched = name.startswith("objectives.") and None in (was, wants)
        if was != wants and not switched:
            raise ValueError(f"{name} = {wants}: the checkpoint was trained with {was}; set it back")
    _check_heads(info.config, now.config)
    steps = value_of(now.config, "run.steps")
    if steps < info.step:
        raise ValueError(f"run.steps = {steps}: the checkpoint has done {info.step} already; raise it")
    older = {"gated_relative": False}  # of a checkpoint whose record does not say
    for name, was in (older | info.encoder).items():
        wants = now.encoder.get(name)
        if was != wants and name not in ("dropout", "init_std"):
            raise ValueError(
                f"model: the checkpoint's encoder has other sizes ({name} {was}, here {wants}); use the config that it was "
                "trained with"
            )
    if info.data_digest != now.data_digest:
        raise ValueError(
            f"data.path = {now.config['data']['path']}: its manifest differs from the one that the checkpoint was trained "
            "on; give the same DATA_DIR"
        )


def kept_alignment(info: CheckpointInfo, now: CheckpointInfo) -> dict[str, Any]:
    """How words align best with the checkpoint's model, as long as this run would not choose it by other settings."""
    same = all(value_of(info.config, name) == value_of(now.config, name) for name in _deciding_alignment())
    return info.alignment if same else {}


def _check_heads(was: dict[str, Any], now: dict[str, Any]) -> None:
    """ValueError where the optimizer's parameters would not be the checkpoint's, or be grouped in another way."""
    had, has = _heads(was), _heads(now)
    if had != has:
        objectives = [name for name in catalog.ENTRIES if catalog.modules_of([name]) & (had ^ has)]
        change = "switched off" if had - has else "switched on"
        raise ValueError(
            f"{', '.join(f'objectives.{name}' for name in objectives)}: {change} since the checkpoint, whose optimizer trains "
            f"{' and '.join(sorted(had))}: set it back (weight 0 takes an objective out of the loss), or start a new run "
            "from the weights alone (`python -m pipeline export`, then model.init)"
        )
    before, after = _built_by(was), _built_by(now)
    for module, (objective, settings) in after.items():
        for name, wants in settings.items():
            if before[module][1].get(name, wants) != wants:
                raise ValueError(
                    f"objectives.{objective}.{name} = {wants}: the checkpoint's {module} was trained with "
                    f"{before[module][1][name]}, by objectives.{before[module][0]}; set it back"
                )
    was_apart, apart = _heads_apart(was), _heads_apart(now)
    if was_apart != apart:
        how = {False: "with neither", True: "with one of them or both"}
        raise ValueError(
            f"optimizer.heads_lr, optimizer.heads_first_steps: the checkpoint was trained {how[was_apart]}, which its "
            f"optimizer's states are laid out for, this run is {how[apart]}: set them back"
        )


def _heads(config: dict[str, Any]) -> set[str]:
    return catalog.trained_modules({name: value_of(config, f"objectives.{name}") for name in catalog.ENTRIES})


def _built_by(config: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By module the first objective that trains it, and those of its settings that a run which goes on must not change."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for objective, kind in catalog.settings().items():
        if value_of(config, f"objectives.{objective}") is None:
            continue
        fixed = [name for name, field in kind.model_fields.items() if field.json_schema_extra == FIXED]
        settings = {name: value_of(config, f"objectives.{objective}.{name}") for name in fixed}
        for module in catalog.ENTRIES[objective].modules:
            found.setdefault(module, (objective, settings))
    return found


def _heads_apart(config: dict[str, Any]) -> bool:
    """Whether the optimizer has the heads' parameters in a group of their own, see `build.parameter_groups`."""
    return value_of(config, "optimizer.heads_lr") is not None or value_of(config, "optimizer.heads_first_steps") > 0
