"""Checkpoints without a training: files of the right names, sealed, and what damages them."""

import zipfile
from pathlib import Path

from pipeline.checkpoints.checkpoint import (
    MANIFEST,
    CheckpointInfo,
    folder_of,
    seal,
    tag_of,
)

CONFIG = {
    "run": {"seed": 1, "out": "run"},
    "data": {"path": "data", "alpha": 0.7, "weights": {}, "schedule": [], "block_tokens": 512, "side_tokens": 254},
    "batch": {"mono": 8, "pairs": 8, "micro_steps": 1},
    "optimizer": {"lr": 1e-3, "heads_lr": None, "heads_first_steps": 0},
}


MODEL = "mp_rank_00_model_states.pt"


def make_info(step: int, world_size: int = 2, zero_stage: int = 1) -> CheckpointInfo:
    return CheckpointInfo(step, world_size, zero_stage, "fp32", "digest", CONFIG, {"layers": 2})


def optimizer_shard(rank: int) -> str:
    return f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def write_archive(path: Path, content: str) -> None:
    """What torch.save makes, in miniature: an archive."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", content)


def write_shards(run: Path, step: int, world_size: int = 2) -> Path:
    """What DeepSpeed leaves in a checkpoint's folder, in miniature."""
    checkpoint = folder_of(run) / tag_of(step)
    checkpoint.mkdir(parents=True)
    write_archive(checkpoint / MODEL, "model" * step)
    for rank in range(world_size):
        write_archive(checkpoint / optimizer_shard(rank), f"optimizer {rank} {step}")
    return checkpoint


def sealed(run: Path, step: int) -> Path:
    checkpoint = write_shards(run, step)
    seal(checkpoint, make_info(step))
    return checkpoint


def steps_of(run: Path) -> list[str]:
    return sorted(path.name for path in folder_of(run).iterdir())


def truncate(checkpoint: Path) -> None:
    with (checkpoint / MODEL).open("r+b") as file:
        file.truncate(3)


def flip_a_byte(checkpoint: Path) -> None:
    content = bytearray((checkpoint / MODEL).read_bytes())
    content[2] ^= 1
    (checkpoint / MODEL).write_bytes(content)


def remove_a_shard(checkpoint: Path) -> None:
    (checkpoint / optimizer_shard(1)).unlink()


def cut_the_manifest(checkpoint: Path) -> None:
    text = (checkpoint / MANIFEST).read_text()
    (checkpoint / MANIFEST).write_text(text[: len(text) // 2])


DAMAGES = {
    remove_a_shard: r"optim_states\.pt: missing",
    truncate: r"model_states\.pt: 3 bytes, \d+ were written",
    flip_a_byte: r"model_states\.pt: damaged",
    cut_the_manifest: r"manifest\.json: damaged",
}
