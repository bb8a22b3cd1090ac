"""Checkpoints that are whole or do not count: DeepSpeed writes the shards, a manifest written last makes them valid.

Knows folders and hashes; nothing of the loop, nor of what a run must have in common with the one it continues.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep.files import sha256_of_file, sync_file, sync_folder
from data_prep.tokenizer import Tokenizer

SCHEMA = 2
MANIFEST = "manifest.json"


@dataclass
class CheckpointInfo:
    """What a checkpoint says of itself; `files` (relative path → bytes and sha256) is filled when it is sealed."""

    step: int  # optimizer steps done; with the config, the whole position in the data
    world_size: int
    zero_stage: int
    precision: str  # fp32, bf16 or fp16
    data_digest: str
    config: dict[str, Any]
    encoder: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema: int = SCHEMA
    # What those who use the model must know; empty in checkpoints of older versions.
    tokenizer: dict[str, str] = field(default_factory=dict)  # its `identity`
    dropouts: dict[str, float] = field(default_factory=dict)  # for fine-tuning, by Hugging Face's names
    alignment: dict[str, Any] = field(default_factory=dict)  # see `align_options.AlignOptions.as_json`


def folder_of(run: Path) -> Path:
    return run / "checkpoints"


def tokenizer_of(run: Path) -> Path:
    """Where a run keeps its own copy of the tokenizer."""
    return run / "tokenizer"


def keep_tokenizer(run: Path, folder: Path) -> dict[str, str]:
    """Copy the tokenizer of the token files into the run's folder, so that the model can be used without them; its identity.

    ValueError where the run holds another one.
    """
    tokenizer = Tokenizer.load(folder)
    tokenizer.save(tokenizer_of(run))
    return tokenizer.identity()


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint lies in."""
    return checkpoint.resolve().parent.parent


def is_run(folder: Path) -> bool:
    """Whether a folder is a checkpoint or a run's, and not a model's."""
    return (folder / MANIFEST).is_file() or folder_of(folder).is_dir()


def tag_of(step: int) -> str:
    return f"step_{step:08d}"


def clear(run: Path, step: int) -> Path:
    """The folder for a step's checkpoint, without what an earlier attempt left there; on one rank, before any writes."""
    checkpoint = folder_of(run) / tag_of(step)
    _remove(checkpoint)
    checkpoint.mkdir(parents=True)
    return checkpoint


def seal(checkpoint: Path, info: CheckpointInfo) -> None:
    """Verify and hash every shard that the ranks wrote, then publish the manifest; on one rank, after all have written.

    OSError names what is missing, empty or cut off; nothing is published then.
    """
    _temporary(checkpoint).unlink(missing_ok=True)  # left where an earlier attempt was killed while it sealed
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = [str(path.relative_to(checkpoint)) for path in files]
    for pattern in shards_of(info):
        if not any(re.fullmatch(pattern, name) for name in names):
            wanted = pattern.replace("\\", "")
            raise OSError(f"{checkpoint}: {wanted} is missing; a rank did not finish writing")
    for path, name in zip(files, names, strict=True):
        if path.stat().st_size == 0:
            raise OSError(f"{path}: written empty; is the disk full?")
        if path.suffix == ".pt" and not zipfile.is_zipfile(path):  # torch.save writes the archive's directory last
            raise OSError(f"{path}: cut off; is the disk full?")
        sync_file(path)
        info.files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    for folder in {path.parent for path in files}:
        sync_folder(folder)
    write_info(checkpoint, info)
    sync_folder(checkpoint.parent)


def write_info(checkpoint: Path, info: CheckpointInfo) -> None:
    """Publish a checkpoint's manifest, or replace it by one that says more."""
    temporary = _temporary(checkpoint)
    temporary.write_text(json.dumps(asdict(info), indent=1, sort_keys=True), encoding="utf-8")
    sync_file(temporary)
    os.replace(temporary, checkpoint / MANIFEST)
    sync_folder(checkpoint)


def _temporary(checkpoint: Path) -> Path:
    return checkpoint / f"{MANIFEST}.tmp"


def shards_of(info: CheckpointInfo) -> list[str]:
    """Patterns of the files that DeepSpeed's ranks write, each of one file."""
    every_rank = range(info.world_size)
    optimizer = [rf"(bf16_)?zero_pp_rank_{rank}_mp_rank_00_optim_states\.pt" for rank in every_rank]
    if info.zero_stage == 3:
        return optimizer + [rf"zero_pp_rank_{rank}_mp_rank_00_model_states\.pt" for rank in every_rank]
    return (optimizer if info.zero_stage else []) + [r"mp_rank_00_model_states\.pt"]


def prune(run: Path, keep: int, keep_every: int = 0) -> None:
    """Remove what is not to stay: of the sealed ones all but the latest `keep` and those of every `keep_every` steps,
    and whatever earlier attempts left unfinished."""
    sealed = _sealed(run)
    stay = set(sealed[-keep:])
    if keep_every:
        stay |= {checkpoint for checkpoint in sealed if int(checkpoint.name.removeprefix("step_")) % keep_every == 0}
    for checkpoint in set(folder_of(run).glob("step_*")) - stay:
        _remove(checkpoint)
    remove_universal(run)


def universal_folder(run: Path) -> Path:
    """Where a checkpoint lies while it is cut anew for other ranks; never read after the start that made it."""
    return folder_of(run) / "universal"


def remove_universal(run: Path) -> None:
    shutil.rmtree(universal_folder(run), ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint's folder, if there is one; killed on the way, it leaves one that does not count."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    if checkpoint.exists():
        shutil.rmtree(checkpoint)


def read_info(checkpoint: Path, verify: bool = True) -> CheckpointInfo:
    """Read a checkpoint's manifest and verify its files; ValueError names the file that is missing, of another size, or
    damaged."""
    path = checkpoint / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{checkpoint}: not a complete checkpoint ({MANIFEST} is missing); give another") from None
    except ValueError:
        raise ValueError(f"{path}: damaged; give another checkpoint") from None
    if not isinstance(content, dict) or "world_size" not in content:
        raise ValueError(f"{path}: not a checkpoint's manifest; give a run folder or one of its checkpoints/step_*")
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {content.get('schema')}, this version reads {SCHEMA}")
    try:
        info = CheckpointInfo(**content)
    except TypeError:
        raise ValueError(f"{path}: damaged, or of a newer version; give another checkpoint") from None
    for name, expected in info.files.items() if verify else ():
        file = checkpoint / name
        if not file.is_file():
            raise ValueError(f"{file}: missing; give another checkpoint")
        if file.stat().st_size != expected["bytes"]:
            raise ValueError(f"{file}: {file.stat().st_size} bytes, {expected['bytes']} were written; give another")
        if sha256_of_file(file) != expected["sha256"]:
            raise ValueError(f"{file}: damaged (its hash differs); give another checkpoint")
    return info


def find(resume: str | None, run: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from, and warnings.

    None: start afresh, an error where the run's folder holds checkpoints already; "auto": the latest good one of the
    run, if any; a path: that checkpoint, or the latest good one of that run's folder, and an error if there is none.
    """
    if resume is None:
        if _sealed(run):
            raise ValueError(
                f"run.out = {run}: holds checkpoints of a run; add --resume auto, or choose another folder"
            )
        return None, []
    if resume != "auto" and (Path(resume) / MANIFEST).exists():
        read_info(Path(resume))
        return Path(resume), []
    place = run if resume == "auto" else Path(resume)
    warnings = []
    for checkpoint in reversed(_sealed(place)):
        try:
            read_info(checkpoint)
        except ValueError as error:
            warnings.append(f"skipped a checkpoint: {error}")
            continue
        return checkpoint, warnings
    if resume == "auto" and not warnings:
        return None, []
    if warnings:
        raise ValueError(f"--resume {resume}: no checkpoint there is whole ({warnings[0]}); start in another run.out")
    raise ValueError(f"--resume {resume}: nothing to resume there; give a run folder or one of its checkpoints/step_*")


def find_model(place: Path) -> tuple[Path, CheckpointInfo, list[str]]:
    """The checkpoint to take a model from, verified, with its manifest and what was skipped on the way.

    place: a checkpoint, or a run's folder: its latest good one. ValueError where there is none.
    """
    wanted = "give a run folder or one of its checkpoints/step_*"
    if place.is_file():
        raise ValueError(f"{place}: is a file; {wanted}")
    if not place.is_dir():
        raise ValueError(f"{place}: no such folder; {wanted}")
    if (place / MANIFEST).is_file():
        return place, read_info(place), []
    skipped: list[str] = []
    for checkpoint in reversed(_sealed(place)):
        try:
            return checkpoint, read_info(checkpoint), skipped
        except ValueError as error:
            skipped.append(f"skipped a checkpoint: {error}")
    if skipped:
        raise ValueError(f"{place}: no checkpoint there is whole ({skipped[0]})")
    if (place / "config.json").is_file():
        raise ValueError(f"{place}: is a Hugging Face folder and holds no checkpoint; {wanted}")
    if place.name.startswith("step_"):
        raise ValueError(f"{place}: not a complete checkpoint ({MANIFEST} is missing); {wanted}")
    raise ValueError(f"{place}: holds no checkpoint; {wanted}")


def _sealed(run: Path) -> list[Path]:
    """Checkpoints in the order in which they were made: a run that went back to an earlier step goes on from there."""
    manifests = folder_of(run).glob(f"step_*/{MANIFEST}")
    return [path.parent for path in sorted(manifests, key=lambda path: (path.stat().st_mtime_ns, path))]
