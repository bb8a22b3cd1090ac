"""The training loop: `deepspeed pipeline/train.py --config CONFIG [--resume auto|PATH] [key=value …]`, read top to bottom.

Each optimizer step labels its pairs (no gradient), then denoises (gradient). The update is the gradient of the sum of
all token losses over the number of predicted tokens of the whole step, however it was cut into ranks and micro-steps.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
from dataclasses import asdict
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
import torch.distributed as dist
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from data_prep.token_files.manifest import Manifest
from pipeline.checkpoints import checkpoint, reshard
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.data.batch import MicroBatch
from pipeline.data.streams import BatchPlan
from pipeline.data.training_data import TrainingData
from pipeline.host import room, run_lock
from pipeline.host.stop import StopFlag
from pipeline.model.encoder import PretrainingModel
from pipeline.model.heads import MASKED_LM_HEAD
from pipeline.run_folder import CONFIG
from pipeline.settings.deepspeed_json import refusals_told
from pipeline.settings.schema import Config, load_config
from pipeline.training import ranks, resuming
from pipeline.training.build import (
    build_data,
    build_model,
    build_objectives,
    deepspeed_settings,
    parameter_groups,
    term_weights,
)
from pipeline.training.divergence import NonFiniteSteps, check_weights, clear_padding, poison
from pipeline.training.precision import LossScale, precision_of
from pipeline.training.prefetch import prefetched
from pipeline.training.validate import Validator
from pipeline.watch.announce import announce, say_end
from pipeline.watch.meter import Meter
from pipeline.watch.monitor import Monitor
from pipeline.watch.wandb_sink import check_wandb
from pipeline.weights.pretrained import check_tokenizer, dropouts_of


def train(config: Config, resume: str | None) -> None:
    """Train to `run.steps`, or until told to stop; the last step is saved either way."""
    # 1. What the run is made of. Every rank checks the same things and would stop at the same one.
    device = ranks.start(config.run.timeout_minutes)
    rank, world_size = ranks.rank(), ranks.world_size()
    config = config.absolute()
    ranks.on_rank_0(lambda: run_lock.hold(config.run.out))
    check_wandb(config)
    manifest = Manifest.load(config.data.path)
    objectives = build_objectives(config)
    data = build_data(config, objectives, manifest)
    plan = BatchPlan({name: getattr(config.batch, name) for name in data.streams}, world_size, config.batch.micro_steps)
    settings = deepspeed_settings(config, plan, device.type)
    tokenizer_notes = ranks.on_rank_0(lambda: check_tokenizer(config.model.init, manifest))
    model, head_is_pretrained = build_model(config, objectives, manifest.vocab_size)
    validator = Validator(config, manifest, model.encoder.config)
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    now = CheckpointInfo(
        0,
        world_size,
        stage,
        precision_of(settings),
        manifest.digest(),
        config.model_dump(mode="json"),
        asdict(model.encoder.config),
        dropouts=dropouts_of(config.model.init),
    )

    # 2. Where the run stands: at the start, or at a checkpoint, which is cut anew if other ranks wrote it.
    found, warnings = ranks.on_rank_0(lambda: checkpoint.find(resume, config.run.out))
    source, first_step = found, 0
    if found is not None:
        info = CheckpointInfo(**ranks.on_rank_0(lambda: asdict(reshard.read_and_check(found))))
        resuming.check_continues(info, now)
        first_step, now.alignment = info.step, resuming.kept_alignment(info, now)
        if reshard.needed(info, now):
            names = [name for name, _ in model.named_parameters()]
            with room.told(checkpoint.universal_folder(config.run.out), least_bytes(model), every_rank_knows=True):
                source = ranks.on_rank_0(lambda: reshard.convert(found, config.run.out, names))
            settings["checkpoint"] = {**settings.get("checkpoint", {}), "load_universal": True}

    now.tokenizer = ranks.on_rank_0(lambda: checkpoint.keep_tokenizer(config.run.out, manifest.tokenizer_dir))

    # 3. DeepSpeed wraps the model; from here on every forward goes through the engine.
    groups = parameter_groups(model, config.optimizer, config.run.steps)
    factors = [factor for _, factor in groups]
    with refusals_told(config.deepspeed):
        engine, _, _, schedule = deepspeed.initialize(
            model=model,
            model_parameters=[{"params": parameters} for parameters, _ in groups],
            config=settings,
            lr_scheduler=lambda optimizer: LambdaLR(optimizer, factors),
        )
    ranks.set_timeouts(config.run.timeout_minutes)
    if source is not None:
        reshard.load(engine, source, info, now)
        dist.barrier()
        ranks.on_rank_0(lambda: checkpoint.remove_universal(config.run.out))

    clear_padding(engine)

    monitor = Monitor(config, first_step) if rank == 0 else None
    if monitor:
        (config.run.out / CONFIG).write_text(config.dump(), encoding="utf-8")
        notes = warnings + tokenizer_notes + ([f"continues from {found}"] if found else [])
        if source != found:
            notes.append(reshard.describe(info, now))
        if config.model.init and MASKED_LM_HEAD in model.heads and not head_is_pretrained:
            notes.append(
                f"{config.model.init} has no masked-LM head: it starts from random weights (see objectives.*.weight)"
            )
        announce(monitor, config, data, model, world_size, notes)

    def save(step: int) -> None:
        check_weights(engine)
        folder = ranks.on_rank_0(lambda: checkpoint.clear(config.run.out, step))
        ranks.on_rank_0(lambda: room.check(folder, least_bytes(model)))
        with room.told(folder, least_bytes(model)):
            engine.save_checkpoint(
                str(folder.parent), tag=folder.name, client_state=reshard.CLIENT_STATE, save_latest=False
            )
            dist.barrier()
        now.step, now.files, now.alignment = step, {}, validator.align_options(now.alignment)
        with room.told(folder, least_bytes(model), every_rank_knows=True):
            ranks.on_rank_0(lambda: checkpoint.seal(folder, now))
        ranks.on_rank_0(lambda: checkpoint.prune(config.run.out, config.run.keep, config.run.keep_every))
        if monitor:
            monitor.record("checkpoint", step, {"path": str(folder)})

    # 4. The loop. Until here a signal ends the process at once: there is nothing to save.
    stop, limit = StopFlag(), ranks.TimeLimit(config.run.time_limit_minutes, save_seconds(model))
    stopping, losses_logged = False, {}
    meter, loss_scale = Meter(device, objectives), LossScale(engine)
    non_finite = NonFiniteSteps(engine, objectives, config.run.non_finite_steps)
    if first_step == 0:
        validator.run(engine, monitor, 0)
        meter.clock.restart()
    step = first_step
    inputs = prefetched(partial(make_batches, data, plan, rank, device), first_step, config.run.steps)
    while step < config.run.steps and not stopping:
        torch.manual_seed(hash((config.run.seed, step, rank)))  # dropout, if any: the same after a resume
        weights = term_weights(config.objectives.active(), step)
        batches = [batch.to(device) for batch in next(inputs)]
        meter.clock.lap("input")

        # 4a. Self-labelling: the objectives write their labels into the unmasked batches.
        engine.eval()
        with torch.no_grad():
            for batch in batches:
                meter.add(engine("label", batch))
        engine.train()
        meter.clock.lap("label")

        # 4b. One all-reduce a step: predicted tokens per objective, and whether any rank was told to stop or has to.
        counts = torch.stack([sum_counts(objective, batches) for objective in objectives])
        tokens = sum(batch.tokens for batch in batches)
        shared = torch.cat([counts, torch.tensor([tokens, stop.set or limit.near()], device=device)]).double()
        dist.all_reduce(shared)
        predicted = shared[: len(objectives)].sum()

        # 4c. Denoising. DeepSpeed averages over ranks and micro-steps, hence the factor.
        scale = world_size * plan.micro_steps / predicted.clamp(min=1)
        losses = []
        for batch in batches:
            terms = engine("losses", batch)
            meter.add(terms)
            losses.append({name: term["loss"].detach() for name, term in terms.items()})
            loss = torch.stack([weights[name] * term["loss"] for name, term in terms.items()]).sum()
            meter.clock.lap("forward")
            engine.backward((loss * scale * poison(loss)).float())
            meter.clock.lap("backward")
            engine.step()
            meter.clock.lap("step")
        meter.count(shared[:-1], sum(map(model.flops, batches)))
        step += 1
        # engine.step() has waited for the device, to know whether to skip; so reading this costs no further wait.
        stopping = bool(shared[-1])
        non_finite.check(step, batches, losses)
        loss_scale.check()

        # 4d. What is due now and then.
        if step % config.run.log_every == 0 or step == config.run.steps:
            values = meter.read()  # all ranks: it sums over them
            values |= {
                "lr": schedule.base_lrs[0]
                * factors[0](schedule.last_epoch - 1),  # the optimizer's own, not the config's
                "skipped_steps": engine.skipped_steps,
                "loss_scale": loss_scale.value,
            }
            norm = engine.get_global_grad_norm()
            if config.optimizer.clip and norm is not None:  # ZeRO 0 clips fp32 gradients without telling
                values["gradient_norm"] = float(norm)
            losses_logged = {name: value for name, value in values.items() if name.endswith("_loss")}
            if monitor:
                monitor.train(step, values)
        if (
            config.validation.every
            and not stopping
            and (step % config.validation.every == 0 or step == config.run.steps)
        ):
            validator.run(engine, monitor, step)
            meter.clock.restart()
        kept_for_good = config.run.keep_every > 0 and step % config.run.keep_every == 0
        if step % config.run.save_every == 0 or kept_for_good or step == config.run.steps or stopping:
            save(step)
            meter.clock.restart()

    inputs.close()
    if monitor:
        if limit.was_near:
            monitor.say(
                f"run.time_limit_minutes = {config.run.time_limit_minutes:g}: there is time to save, and no more"
            )
        monitor.record("end", step, {"finished": step == config.run.steps})
        say_end(monitor, config, step, losses_logged)
        monitor.close()


def make_batches(data: TrainingData, plan: BatchPlan, rank: int, device: torch.device, step: int) -> list[MicroBatch]:
    """What a rank works on in one optimizer step, ready to be copied to its device."""
    batches = [data.micro_batch(plan, step, micro, rank) for micro in range(plan.micro_steps)]
    return [batch.pinned() for batch in batches] if device.type == "cuda" else batches


def save_seconds(model: PretrainingModel) -> float:
    """What a checkpoint (weights and two moments) may take before one was made: 100 MB/s."""
    return 16 * parameters_of(model) / 100e6


def least_bytes(model: PretrainingModel) -> int:
    """What a checkpoint takes at least: weights of two bytes, and a master copy and two moments, or weights and moments."""
    return 12 * parameters_of(model)


def parameters_of(model: PretrainingModel) -> int:
    """All of them, also where ZeRO-3 has cut them."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())


def sum_counts(objective: Any, batches: list[Any]) -> Tensor:
    """Tokens that an objective predicts in this rank's micro-batches of the step."""
    return torch.stack([objective.count(batch[objective.reads]) for batch in batches]).sum()


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
