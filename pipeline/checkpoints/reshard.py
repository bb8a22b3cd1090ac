"""A checkpoint cut anew for a run with other ranks, another ZeRO stage or precision, through DeepSpeed's universal format.

Knows which ways DeepSpeed has, and goes them; what else a checkpoint and a run must share is `checkpoint`'s business.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deepspeed.checkpoint import ds_to_universal

from pipeline.checkpoints import checkpoint, weights_only
from pipeline.checkpoints.manifest import MANIFEST, CheckpointInfo, read_manifest

# Without it DeepSpeed takes a checkpoint for one that was never meant to be converted.
CLIENT_STATE = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}
OWN = ("loss_scaler", "dynamic_loss_scale", "clip_grad")  # what DeepSpeed's optimizers load over the run's own
STATES = {"fp32.pt", "exp_avg.pt", "exp_avg_sq.pt"}
WEIGHTS_ONLY = "start a new run from its weights alone (`python -m pipeline export`, then model.init)"


def read_and_check(found: Path) -> CheckpointInfo:
    """What a verified checkpoint's manifest says; on one rank.

    Raises:
        ValueError: one of its files holds something that loading it would run, or its config lacks a section.
    """
    info = read_manifest(found)
    for section in ("run", "data", "batch", "optimizer"):
        if not isinstance(info.config.get(section), dict):
            raise ValueError(f"{found / MANIFEST}: config.{section}: missing; give another checkpoint")
    weights_only.check(found / name for name in info.files if name.endswith(".pt"))
    return info


def needed(info: CheckpointInfo, now: CheckpointInfo) -> bool:
    """Whether the checkpoint must be converted before this run can load it; ValueError where DeepSpeed has no way."""
    was, wants = info.zero_stage, now.zero_stage
    if was != wants and not {was, wants} <= {1, 2}:
        raise ValueError(
            f"ZeRO stage {wants}: the checkpoint was written at stage {was}, and DeepSpeed can only change 1 into 2 and 2 "
            f"into 1; use a DeepSpeed config of stage {was}, or {WEIGHTS_ONLY}"
        )
    if info.precision != now.precision and not was:
        raise ValueError(
            f"{now.precision}: the checkpoint was written in {info.precision}, which can only be changed at ZeRO stages 1 to "
            f"3; use a DeepSpeed config in {info.precision}, or {WEIGHTS_ONLY}"
        )
    if was == 0:
        return False  # every rank holds, and wrote, the whole state
    return (info.world_size, was, info.precision) != (now.world_size, wants, now.precision)


def convert(found: Path, run: Path, parameters: Iterable[str]) -> Path:
    """Checkpoint `found` in DeepSpeed's universal format, below the run's checkpoints; on one rank.

    It is loaded at once and removed, so nobody has to trust it later. parameters: names of those that it must hold.
    ValueError where DeepSpeed fails.
    """
    checkpoint.remove_universal(run)
    out = checkpoint.universal_folder(run) / found.name
    options = Namespace(
        input_folder=str(found),
        output_folder=str(out),
        # In this process: children forked beside communication threads may hang.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    try:
        silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with silent[0], silent[1], weights_only.refusing_code():
            ds_to_universal.main(options)
        for name in parameters:
            if lacking := STATES - {path.name for path in (out / "zero" / name).iterdir()}:
                raise ValueError(f"{name} came out without {min(lacking)}")
    except Exception as error:  # whatever DeepSpeed stumbles over, in files that are whole
        checkpoint.remove_universal(run)
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{found}: DeepSpeed cannot convert it ({type(error).__name__}: {reason}); start as many ranks with the same "
            f"DeepSpeed config as it was written with, or {WEIGHTS_ONLY}"
        ) from error
    return out


def describe(info: CheckpointInfo, now: CheckpointInfo) -> str:
    """What was converted into what, for whoever watches."""
    return (
        f"it was written by {info.world_size} ranks at ZeRO stage {info.zero_stage} in {info.precision}, and was cut anew "
        f"for {now.world_size} at stage {now.zero_stage} in {now.precision}"
    )


def load(engine: Any, source: Path, info: CheckpointInfo, now: CheckpointInfo) -> None:
    """Load a checkpoint, or what `convert` made of it, into the engine; on every rank.

    DeepSpeed takes the optimizer's settings from a checkpoint too: states stay the checkpoint's, settings this run's.
    """
    optimizer = engine.optimizer
    groups = [{name: value for name, value in group.items() if name != "params"} for group in _groups(engine)]
    own = {name: vars(optimizer)[name] for name in OWN if name in vars(optimizer)}
    with weights_only.refusing_code():
        loaded, _ = engine.load_checkpoint(str(source.parent), tag=source.name)
    assert loaded is not None, f"{source} was verified, and DeepSpeed found nothing in it"
    if info.precision == now.precision and "loss_scaler" in own:
        _continue_scale(own["loss_scaler"], optimizer.loss_scaler)
    vars(optimizer).update(own)
    _keep_settings(engine, groups)


def _groups(engine: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = engine.basic_optimizer.param_groups  # other objects after each loading
    return groups


def _keep_settings(engine: Any, groups: list[dict[str, Any]]) -> None:
    """Give each group of parameters the settings that it had before, and the rate that they have at the loaded step."""
    schedule = engine.lr_scheduler
    schedule.base_lrs = [group["initial_lr"] for group in groups]
    for group, own, factor in zip(_groups(engine), groups, schedule.lr_lambdas, strict=True):
        group.update(own)
        group["lr"] = own["initial_lr"] * factor(schedule.last_epoch)


def _continue_scale(scaler: Any, before: Any) -> None:
    """Bring fp16's dynamic loss scale to where the checkpoint's was, within this run's limits."""
    if scaler.dynamic and before.dynamic:
        for name in ("cur_iter", "last_overflow_iter", "cur_hysteresis"):
            setattr(scaler, name, getattr(before, name))
        scaler.cur_scale = max(before.cur_scale, scaler.min_scale)
