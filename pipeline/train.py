"""The training loop: `deepspeed pipeline/train.py --config CONFIG [--resume auto|PATH] [key=value …]`, read top to bottom.

Each optimizer step labels its pairs (no gradient), then denoises (gradient). The update is the gradient of the sum of
all token losses over the number of predicted tokens of the whole step, however it was cut into ranks and micro-steps.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Started as a file: put the repository on the path instead of this folder, whose names are not top-level modules.
    # With PYTHONSAFEPATH the folder is not there, and nothing is replaced.
    sys.path[: 0 if getattr(sys.flags, "safe_path", False) else 1] = [str(Path(__file__).resolve().parent.parent)]

    # DeepSpeed and PyTorch log while they are imported, and until the process ends.
    from data_prep.quiet import quiet

    hidden = quiet()
    hidden.__enter__()

import deepspeed
import torch
from torch.optim.lr_scheduler import LambdaLR

from data_prep.files import write_text
from data_prep.token_files.manifest import Manifest
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.data.batch import MicroBatch
from pipeline.data.streams import BatchPlan
from pipeline.data.training_data import TrainingData
from pipeline.host import run_lock
from pipeline.host.stop import StopFlag
from pipeline.objectives.catalog import build_objectives
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.run_folder import CONFIG
from pipeline.settings.added_words import words_of
from pipeline.settings.deepspeed_json import precision_of, refusals_told
from pipeline.settings.schema import Config, load_config
from pipeline.training import muon, ranks, replicated
from pipeline.training.beginning import begun_with
from pipeline.training.build import (
    build_data,
    build_model,
    deepspeed_settings,
    notes_on_heads,
    notes_on_order,
    parameter_groups,
)
from pipeline.training.divergence import clear_padding
from pipeline.training.prefetch import Inputs, prefetched
from pipeline.training.saves import Saves
from pipeline.training.step import TrainingStep
from pipeline.training.validate import Validator
from pipeline.watch.announce import announce, say_end
from pipeline.watch.meter import Meter
from pipeline.watch.monitor import Monitor
from pipeline.watch.wandb_sink import check_wandb
from pipeline.weights.pretrained import check_tokenizer, dropouts_of


@dataclass
class Run:
    """What a run is made of. Every rank has the same, and would have stopped at the same mistake."""

    config: Config
    manifest: Manifest
    plan: BatchPlan
    data: TrainingData
    model: PretrainingModel
    settings: dict[str, Any]
    """DeepSpeed's."""
    validator: Validator
    saves: Saves
    notes: list[str]

    @staticmethod
    def of(config: Config, device: torch.device) -> Run:
        """ValueError of one line at the first thing that is wrong with it."""
        world_size = ranks.world_size()
        manifest, objectives = Manifest.load(config.data.path), build_objectives(config)
        words = words_of(config, manifest)
        data = build_data(config, objectives, manifest)
        sizes = {name: getattr(config.batch, name) for name in data.streams}
        plan = BatchPlan(sizes, world_size, config.batch.micro_steps)
        settings = deepspeed_settings(config, plan, device.type)
        notes: list[str] = ranks.on_rank_0(lambda: check_tokenizer(config.model.init, manifest))
        model, head_is_pretrained = build_model(config, objectives, words)
        validator = Validator(config, manifest, model.encoder.config)
        now = CheckpointInfo(
            0,
            world_size,
            settings.get("zero_optimization", {}).get("stage", 0),
            precision_of(settings),
            manifest.digest(),
            config.model_dump(mode="json"),
            asdict(model.encoder.config),
            dropouts=dropouts_of(config.model.init),
            words=words.names,
        )
        saves = Saves(config.run, model, now)
        notes += notes_on_heads(config, model, head_is_pretrained)
        notes += notes_on_order(settings, config.batch.micro_steps, objectives)
        return Run(config, manifest, plan, data, model, settings, validator, saves, notes)

    def batches(self, device: torch.device, step: int) -> list[MicroBatch]:
        """What this rank works on in an optimizer step (from 0), ready to be copied to its device."""
        micro_steps = range(self.plan.micro_steps)
        batches = [self.data.micro_batch(self.plan, step, micro, ranks.rank()) for micro in micro_steps]
        return [batch.pinned() for batch in batches] if device.type == "cuda" else batches


def train(config: Config, resume: str | None) -> None:
    """Train to `run.steps`, or until told to stop; the last step is saved either way."""
    # 1. What the run is made of.
    device = ranks.start(config.run.timeout_minutes)
    config = begun_with(config.absolute(), resume)
    ranks.on_rank_0(lambda: run_lock.hold(config.run.out))
    check_wandb(config)
    run = Run.of(config, device)
    saves, validator = run.saves, run.validator

    # 2. Where it stands: at the start, or at a checkpoint. Then DeepSpeed wraps the model; from here on every forward goes
    # through the engine.
    universal = saves.find(resume)
    saves.keep_tokenizer(run.manifest.tokenizer_dir)
    engine, rate = wrap(run, universal)
    notes = [*saves.load(engine), *run.notes]
    clear_padding(engine)
    monitor = Monitor(config, saves.first_step) if ranks.rank() == 0 else None
    if monitor:
        write_text(config.run.out / CONFIG, config.dump())
        announce(monitor, config, run.data, run.model, ranks.world_size(), notes)

    # 3. Until here a signal ends the process at once: there is nothing to save.
    stop, limit = StopFlag(), ranks.TimeLimit(config.run.time_limit_minutes, saves.expected_seconds())
    meter = Meter(device, run.model.objectives)
    one_step = TrainingStep(engine, config, run.model.objectives, meter)
    for objective in run.model.objectives:
        objective.compile_kernels(run.model.encoder.config, engine.get_data_types()[0], device)
    if saves.first_step == 0:
        begin(run, device)
        validator.run(engine, monitor, 0)
        meter.clock.restart()

    # 4. The loop.
    step, stopping, losses = saves.first_step, False, dict[str, float]()
    made = prefetched(partial(run.batches, device), step, config.run.steps)
    inputs = Inputs(made, engine.device)
    while step < config.run.steps and not stopping:
        stopping = one_step.run(inputs, step, lambda: stop.set or limit.near())
        step += 1
        if step % config.run.log_every == 0 or step == config.run.steps:
            values = meter.read()  # all ranks: it sums over them
            values |= {"lr": rate(), **update_health(engine, config, one_step)}
            losses = {name: value for name, value in values.items() if name.endswith("_loss")}
            if monitor:
                monitor.train(step, values)
        if validator.due(step, config.run.steps) and not stopping:
            validator.run(engine, monitor, step)
            meter.clock.restart()
        if saves.due(step, stopping):
            folder = saves.save(engine, step, validator.align_options(saves.kept_alignment))
            if monitor:
                monitor.record("checkpoint", step, {"path": str(folder)})
            meter.clock.restart()

    made.close()
    if monitor:
        end(monitor, config, step, losses, limit.was_near)


def wrap(run: Run, more_settings: dict[str, Any]) -> tuple[Any, Callable[[], float]]:
    """DeepSpeed's engine around the model, and what says the learning rate of the last step, for the log."""
    config = run.config
    freezes = config.model.freeze is not None
    groups = parameter_groups(run.model, config.optimizer, config.run.steps, freezes)
    factors = [factor for _, factor in groups]
    settings = dict(run.settings)
    if more_settings:
        settings["checkpoint"] = {**settings.get("checkpoint", {}), **more_settings}
    muon.import_uncompiled()
    with refusals_told(config.deepspeed):
        engine, _, _, schedule = deepspeed.initialize(
            model=run.model,
            model_parameters=[{"params": parameters} for parameters, _ in groups],
            config=settings,
            lr_scheduler=lambda optimizer: LambdaLR(optimizer, factors),
        )
    ranks.set_timeouts(config.run.timeout_minutes)
    replicated.check_precision(run.model.twins, config.deepspeed)

    def rate() -> float:
        base: float = schedule.base_lrs[0]  # the optimizer's own, not the config's
        return base * factors[-1 if freezes else 0](schedule.last_epoch - 1)

    return engine, rate


def begin(run: Run, device: torch.device) -> None:
    """Let objectives fill what they keep, before the first step of a new run."""
    with torch.no_grad():
        for objective in run.model.objectives:
            objective.before_training(run.model, lambda step: [b.to(device) for b in run.batches(device, step)])


def update_health(engine: Any, config: Config, one_step: TrainingStep) -> dict[str, float]:
    """What the log says of updates: how many were skipped so far, the loss scale, the last gradient's norm."""
    values = {"skipped_steps": engine.skipped_steps, "loss_scale": one_step.loss_scale.value}
    norm = engine.get_global_grad_norm()
    if config.optimizer.clip and norm is not None:  # ZeRO 0 clips fp32 gradients without telling
        values["gradient_norm"] = float(norm)
    return values


def end(monitor: Monitor, config: Config, step: int, losses: dict[str, float], out_of_time: bool) -> None:
    """What is said and recorded of a run that has ended; `losses`: those of the last line of the log."""
    if out_of_time:
        monitor.say(f"run.time_limit_minutes = {config.run.time_limit_minutes:g}: there is time to save, and no more")
    monitor.record("end", step, {"finished": step == config.run.steps})
    say_end(monitor, config, step, losses)
    monitor.close()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="deepspeed pipeline/train.py",
        description="Pretrain with XLM-Align.",
        epilog="example: deepspeed pipeline/train.py --config my.yaml --resume auto optimizer.lr=1e-4",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML config; see pipeline/configs/")
    parser.add_argument("--resume", metavar="auto|PATH", help="continue from the run's latest checkpoint, or from PATH")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # passed by the deepspeed launcher
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the config's")
    return parser.parse_intermixed_args()


def main() -> None:
    faulthandler.enable()  # a disk that fails below a mapped shard is SIGBUS: tell where that was
    arguments = parse_arguments()
    train(load_config(arguments.config, arguments.overrides), arguments.resume)


if __name__ == "__main__":
    ranks.run_main(main)
