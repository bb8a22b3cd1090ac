"""A checkpoint's manifest: what it says, with a checksum of its own, and the files that it lists.

Knows JSON, hashes and the names of DeepSpeed's files; nothing of runs, and nothing of what is in the files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from data_prep.files import sha256_of_file, sha256_of_json, sync_file, sync_folder

SCHEMA = 3
WITHOUT_CHECKSUM = 2
"""The schema of older versions, whose manifests have neither a checksum nor a serial."""
MANIFEST = "manifest.json"
CHECKSUM = "checksum"


@dataclass
class CheckpointInfo:
    """What a checkpoint says of itself; `files` (relative path → bytes and sha256) is filled when it is sealed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    step: Annotated[int, Field(ge=0)]  # optimizer steps done; with the config, the whole position in the data
    world_size: Annotated[int, Field(ge=1)]
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    precision: Annotated[str, Field(pattern="^(fp32|bf16|fp16)$")]
    data_digest: str
    config: dict[str, Any]
    encoder: dict[str, Any]
    files: dict[str, dict[str, int | str]] = field(default_factory=dict)
    schema: int = SCHEMA
    # Which of the checkpoints saved in the run's folder it is, from 1: the latest has the largest. No clock decides.
    serial: Annotated[int, Field(ge=0)] = 0
    # What those who use the model must know; empty in checkpoints of older versions.
    tokenizer: dict[str, str] = field(default_factory=dict)  # its `identity`
    dropouts: dict[str, float] = field(default_factory=dict)  # for fine-tuning, by Hugging Face's names
    alignment: dict[str, Any] = field(default_factory=dict)  # see `align_options.AlignOptions.as_json`
    words: list[str] = field(default_factory=list)  # of the model beyond the tokenizer's, in the order of their ids

    @property
    def has_checksum(self) -> bool:
        return self.schema != WITHOUT_CHECKSUM


@cache
def _adapter() -> TypeAdapter[CheckpointInfo]:
    return TypeAdapter(CheckpointInfo)


def write_info(checkpoint: Path, info: CheckpointInfo) -> None:
    """Publish a checkpoint's manifest, or replace it by one that says more; it then has a checksum."""
    info.schema = SCHEMA
    content = asdict(info)
    content[CHECKSUM] = _checksum(content)
    temporary = temporary_manifest(checkpoint)
    try:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        sync_file(temporary)
        os.replace(temporary, checkpoint / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(checkpoint)


def temporary_manifest(checkpoint: Path) -> Path:
    return checkpoint / f"{MANIFEST}.tmp"


def _checksum(content: Any) -> str:
    """Of what is read back: JSON makes lists of tuples."""
    return sha256_of_json(json.loads(json.dumps(content)))


def read_manifest(checkpoint: Path) -> CheckpointInfo:
    """What a checkpoint's manifest says; the files are not looked at.

    Raises:
        ValueError: it is missing, damaged, or no checkpoint's.
    """
    path = checkpoint / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        claimed = content.pop(CHECKSUM, None) if isinstance(content, dict) else None
        actual = _checksum(content)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{checkpoint}: not a complete checkpoint ({MANIFEST} is missing); give another") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give another checkpoint") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: damaged; give another checkpoint") from None
    if not isinstance(content, dict) or "world_size" not in content:
        raise ValueError(f"{path}: not a checkpoint's manifest; give a run folder or one of its checkpoints/step_*")
    schema = content.get("schema")
    if schema not in (WITHOUT_CHECKSUM, SCHEMA):
        raise ValueError(f"{path}: schema {schema!r}, this version reads {WITHOUT_CHECKSUM} and {SCHEMA}")
    if claimed != actual and (schema == SCHEMA or claimed is not None):
        raise ValueError(f"{path}: damaged (its checksum differs); give another checkpoint")
    try:
        info = _adapter().validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path}: {where}: {first['msg']}; damaged, or of another version; give another checkpoint"
        ) from None
    named = re.fullmatch(r"step_(\d{8,})", checkpoint.name)
    if not info.has_checksum and named and int(named[1]) != info.step:
        raise ValueError(f"{path}: damaged (step {info.step} in a folder of another); give another checkpoint")
    return info


def expected_files(info: CheckpointInfo) -> Iterator[str]:
    """Patterns of the files that DeepSpeed's ranks write, each of one file."""
    for rank in range(info.world_size if info.zero_stage else 0):
        yield rf"(bf16_)?zero_pp_rank_{rank}_mp_rank_00_optim_states\.pt"
    for rank in range(info.world_size if info.zero_stage == 3 else 0):
        yield rf"zero_pp_rank_{rank}_mp_rank_00_model_states\.pt"
    if info.zero_stage < 3:
        yield r"mp_rank_00_model_states\.pt"


def missing_file(info: CheckpointInfo, names: list[str]) -> str | None:
    """The first file that a rank should have written and that is not among the names."""
    for pattern in expected_files(info):
        if not any(re.fullmatch(pattern, name) for name in names):
            return pattern.replace("\\", "").replace("(bf16_)?", "")
    return None


def verify_files(checkpoint: Path, info: CheckpointInfo) -> None:
    """See that the files which the manifest lists are there as they were written, and none beside them that would be read.

    Raises:
        ValueError: names the file that is missing, of another size, damaged, or not listed.
    """
    if lacking := missing_file(info, list(info.files)):
        raise ValueError(f"{checkpoint / MANIFEST}: does not list {lacking}; give another checkpoint")
    for name, expected in info.files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{checkpoint / MANIFEST}: lists {name!r}, which is elsewhere; give another checkpoint")
        file = checkpoint / name
        if not file.is_file():
            raise ValueError(f"{file}: missing; give another checkpoint")
        if file.stat().st_size != expected.get("bytes"):
            raise ValueError(f"{file}: {file.stat().st_size} bytes, {expected.get('bytes')} were written; give another")
        if sha256_of_file(file) != expected.get("sha256"):
            raise ValueError(f"{file}: damaged (its hash differs); give another checkpoint")
    # DeepSpeed looks for its files by their names.
    for file in sorted(checkpoint.rglob("*.pt")):
        if file.relative_to(checkpoint).as_posix() not in info.files:
            raise ValueError(f"{file}: is not listed in {MANIFEST} and would be read; move it elsewhere")
