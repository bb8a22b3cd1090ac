"""Checkpoints that are whole or do not count: DeepSpeed writes the shards, a manifest written last makes them valid.

Knows folders and hashes; nothing of the loop, nor of what a run must have in common with the one it continues.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

from data_prep.files import sha256_of_file, sync_file, sync_folder
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.checkpoints.manifest import (
    MANIFEST,
    CheckpointInfo,
    missing_file,
    read_manifest,
    temporary_manifest,
    verify_files,
    write_info,
)

_NAME = re.compile(r"step_\d{8,}")
MODEL_CONFIG = "config.json"
"""What makes a folder a Hugging Face model's, whatever lies beside it."""


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


def data_of(info: CheckpointInfo) -> Path | None:
    """The folder of token files that a checkpoint's config names, if it names one."""
    section = info.config.get("data")
    path = section.get("path") if isinstance(section, dict) else None
    return Path(path) if isinstance(path, str) and path else None


def is_run(folder: Path) -> bool:
    """Whether a folder is a checkpoint or a run's; one with a Hugging Face model is neither, whatever else it holds."""
    if (folder / MODEL_CONFIG).is_file():
        return False
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

    The checkpoint is then the run's latest. OSError names what is missing, empty or cut off; nothing is published then.
    """
    temporary_manifest(checkpoint).unlink(missing_ok=True)  # left where an earlier attempt was killed while it sealed
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = [str(path.relative_to(checkpoint)) for path in files]
    if lacking := missing_file(info, names):
        raise OSError(f"{checkpoint}: {lacking} is missing; a rank did not finish writing")
    for path, name in zip(files, names, strict=True):
        if path.stat().st_size == 0:
            raise OSError(f"{path}: written empty; is the disk full?")
        if path.suffix == ".pt" and not zipfile.is_zipfile(path):  # torch.save writes the archive's directory last
            raise OSError(f"{path}: cut off; is the disk full?")
        sync_file(path)
        info.files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    for folder in {path.parent for path in files}:
        sync_folder(folder)
    info.serial = 1 + max((other.serial for _, other in _manifests(run_of(checkpoint))[0]), default=0)
    write_info(checkpoint, info)
    sync_folder(checkpoint.parent)


def prune(run: Path, keep: int, keep_every: int = 0) -> None:
    """Remove what is not to stay: of the sealed ones all but the latest `keep` and those of every `keep_every` steps, and
    whatever earlier attempts left unfinished. What the run has not named stays, and so does what cannot be read."""
    readable, _ = _manifests(run)
    ended = [path for path, info in readable[:-keep] if not keep_every or info.step % keep_every]
    unfinished = [path for path in _named(run) if not (path / MANIFEST).exists()]
    for checkpoint in ended + unfinished:
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


def read_info(checkpoint: Path) -> CheckpointInfo:
    """Read a checkpoint's manifest and verify its files; ValueError names the file that is missing, of another size,
    damaged, or not listed."""
    info = read_manifest(checkpoint)
    verify_files(checkpoint, info)
    return info


def find(resume: str | None, run: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to continue from, and warnings.

    None: start afresh, an error where the run's folder holds checkpoints already; "auto": the latest good one of the
    run, if any; a path: that checkpoint, or the latest good one of that run's folder, and an error if there is none.
    """
    if resume is None:
        if holds_any(run):
            raise ValueError(
                f"run.out = {run}: holds checkpoints of a run; add --resume auto, or choose another folder"
            )
        return None, []
    if resume != "auto" and (Path(resume) / MANIFEST).exists():
        return Path(resume), _notes(Path(resume), read_info(Path(resume)))
    found, _, notes = _latest_good(run if resume == "auto" else Path(resume))
    if found is not None or (resume == "auto" and not notes):
        return found, notes
    if notes:
        raise ValueError(f"--resume {resume}: no checkpoint there is whole ({notes[0]}); start in another run.out")
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
    if (place / MODEL_CONFIG).is_file():
        raise ValueError(f"{place}: is a Hugging Face folder and holds no checkpoint; {wanted}")
    if (place / MANIFEST).is_file():
        info = read_info(place)
        return place, info, _notes(place, info)
    found, info_found, notes = _latest_good(place)
    if found is not None and info_found is not None:
        return found, info_found, notes
    if notes:
        raise ValueError(f"{place}: no checkpoint there is whole ({notes[0]})")
    if place.name.startswith("step_"):
        raise ValueError(f"{place}: not a complete checkpoint ({MANIFEST} is missing); {wanted}")
    raise ValueError(f"{place}: holds no checkpoint; {wanted}")


def _latest_good(run: Path) -> tuple[Path | None, CheckpointInfo | None, list[str]]:
    """The latest checkpoint of a run that is whole, what its manifest says, and a note on each that was skipped."""
    readable, damaged = _manifests(run)
    notes = [f"skipped a checkpoint: {problem}" for _, problem in reversed(damaged)]
    for checkpoint, info in reversed(readable):
        try:
            verify_files(checkpoint, info)
        except ValueError as error:
            notes.append(f"skipped a checkpoint: {error}")
            continue
        return checkpoint, info, notes + _notes(checkpoint, info)
    return None, None, notes


def _notes(checkpoint: Path, info: CheckpointInfo) -> list[str]:
    """What its user should know of how far a good checkpoint was verified."""
    if info.has_checksum:
        return []
    return [f"{checkpoint / MANIFEST}: of an older version, without a checksum; its files were verified by it"]


def sealed(run: Path) -> list[Path]:
    """A run's checkpoints in the order in which they were made, a damaged manifest's first."""
    readable, damaged = _manifests(run)
    return [path for path, _ in damaged] + [path for path, _ in readable]


def holds_any(run: Path) -> bool:
    """Whether a run's folder holds a checkpoint that was finished, whatever has become of it."""
    return bool(_with_manifest(run))


def _named(run: Path) -> list[Path]:
    """Folders with a name that `tag_of` gives: others are the user's."""
    return sorted(path for path in folder_of(run).glob("step_*") if _NAME.fullmatch(path.name))


def _with_manifest(run: Path) -> list[Path]:
    return [path for path in _named(run) if (path / MANIFEST).exists()]


def _manifests(run: Path) -> tuple[list[tuple[Path, CheckpointInfo]], list[tuple[Path, str]]]:
    """Checkpoints with what their manifests say, and those whose manifest cannot be read with what is wrong, each read once.

    The first are in the order in which they were made: by their serials, so that a run that went back to an earlier step goes
    on from there. Those of older versions, which have none, are the first, by step.
    """
    readable, damaged = [], []
    for path in _with_manifest(run):
        try:
            readable.append((path, read_manifest(path)))
        except ValueError as error:
            damaged.append((path, str(error)))
    return sorted(readable, key=lambda one: (one[1].serial, one[1].step, one[0])), damaged
