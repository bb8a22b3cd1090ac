"""What a run says before its first step."""

from __future__ import annotations

import shlex

from pipeline.checkpoints import checkpoint
from pipeline.data.streams import PairStream
from pipeline.data.training_data import TrainingData
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.schema import Config
from pipeline.watch.monitor import Monitor


def announce(
    monitor: Monitor, config: Config, data: TrainingData, model: PretrainingModel, world_size: int, notes: list[str]
) -> None:
    """Say what is about to be trained, on what, and everything that a user may not expect."""
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    monitor.say(
        f"{parameters / 1e6:.1f} M parameters, {world_size} ranks, {config.deepspeed.stem}, run in {config.run.out}"
    )
    for name, stream in data.streams.items():
        for stage, shares_L in zip(stream.stages, stream.stage_shares, strict=True):
            shares = ", ".join(f"{lang} {share:.1%}" for lang, share in zip(stream.names, shares_L, strict=True))
            begins = f" from sample {stage.first:,} on" if stage.first else ""
            monitor.say(f"{name}: {sum(stream.counts):,} samples, sampled{begins} as {shares}")
        if stream.cut_at_start:
            notes = [
                *notes,
                f"the blocks of {stream.cut_at_start:,} {name} shards were found at the start: they were made for another "
                f"size than data.block_tokens = {stream.limit}; `mono --block-tokens {stream.limit}` saves the time",
            ]
        if isinstance(stream, PairStream) and (cut := stream.longer_than_limit()):
            note = f"{cut:,} pairs have a side over data.side_tokens = {stream.limit} and are cut"
            notes = notes if note in notes else [*notes, note]  # two streams may read the same pairs
    for note in notes:
        monitor.say(f"note: {note}")


def say_end(monitor: Monitor, config: Config, step: int, losses: dict[str, float]) -> None:
    """Where the run is, what it came to, and what one does next; `losses`: those of the last line of the log."""
    out = shlex.quote(str(config.run.out))
    last = ", ".join(f"{name.removesuffix('_loss')} {value:.3f}" for name, value in losses.items())
    place = config.run.out / "checkpoints" / checkpoint.tag_of(step)
    if losses:
        monitor.say(f"last losses: {last}")
    if step < config.run.steps:
        monitor.say(f"stopped at step {step}: saved; continue with --resume auto ({place})")
        return
    monitor.say(f"done at step {step}: {place}")
    for command, what in (
        (f"report {out}", "curves of the run as one page"),
        (f"export {out} HF_DIR", "the model as a Hugging Face folder"),
        (f"align {out} TEXT.src TEXT.trg", "words of a translated text"),
    ):
        monitor.say(f"next: python -m pipeline {command}   ({what})")
