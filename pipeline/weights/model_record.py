"""What is kept with a model for those who use it: how words align best, and which tokenizer it has.

In a Hugging Face folder it is a section of config.json that Transformers carries along and does not read; in a checkpoint a
part of its manifest. Knows these two files; nothing of tensors.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.files import remove_abandoned, write_durably
from data_prep.tokenizers.hub import hub_name
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import MANIFEST, CheckpointInfo, write_info
from pipeline.objectives import catalog
from pipeline.settings.align_options import AlignOptions, options_of_json, trained_options

CONFIG_NAME = "config.json"
SECTION = "xlm_align"
TOKENIZER_KEY = "tokenizer"
TEXT_TO_TEXT_KEY = "text_to_text"
"""Of the section: what `text_to_text_record` knows, which is kept beside the rest."""


@dataclass(frozen=True)
class Record:
    """What a folder says of its model; None where it says nothing."""

    options: AlignOptions | None = None
    tokenizer: dict[str, str] | None = None
    """`Tokenizer.identity`."""


def record_of_config(content: dict[str, Any], path: Path) -> Record:
    """The record in a config.json; ValueError where it is damaged."""
    section = content.get(SECTION)
    if section is None:
        return Record()
    knows_options = not isinstance(section, dict) or "layer" in section
    options = options_of_json(section, f"{path}: {SECTION}") if knows_options else None
    tokenizer = section.get(TOKENIZER_KEY)
    if tokenizer is not None and not (isinstance(tokenizer, dict) and all(map(_is_text, tokenizer.values()))):
        raise ValueError(f"{path}: {SECTION}.{TOKENIZER_KEY} is {tokenizer!r}, not a tokenizer's hashes; delete it")
    return Record(options, tokenizer)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def record_of_checkpoint(info: CheckpointInfo, path: Path) -> Record:
    """The record of a checkpoint; in those of older versions what its config tells."""
    return Record(_options_of(info, path), info.tokenizer or None)


def _options_of(info: CheckpointInfo, path: Path) -> AlignOptions | None:
    if info.alignment:
        return options_of_json(info.alignment, f"{path / MANIFEST}: alignment")
    objectives = info.config.get("objectives")
    if objectives is None:
        return None
    try:
        return trained_options(info.encoder["layers"], catalog.recorded_labelling(objectives))
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path / MANIFEST}: config.objectives: {error!r}; give another checkpoint") from None


def section_of(record: Record) -> dict[str, Any]:
    """What is written into config.json."""
    options = {} if record.options is None else record.options.as_json()
    return options | ({} if record.tokenizer is None else {TOKENIZER_KEY: record.tokenizer})


def check_recordable(folder: Path) -> None:
    """ValueError where a model has no file that takes a record, or it cannot be written."""
    if hub_name(folder) is not None:
        raise ValueError(
            f"--record: {folder}: no such folder, and a model of the hub takes no record here; make a folder of it: "
            f"python -m pipeline export {folder} HF_DIR"
        )
    if not folder.exists():  # who reads it says so
        return
    if folder.is_file() or not (checkpoint.is_run(folder) or (folder / CONFIG_NAME).is_file()):
        raise ValueError(
            f"{folder}: has no place for a record; make a Hugging Face folder of it: python -m pipeline export {folder} HF_DIR"
        )
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--record: {folder} cannot be written; copy the model, or leave --record out")


def write_options(folder: Path, options: AlignOptions) -> Path:
    """Keep the options with a model, a Hugging Face folder's, a checkpoint's or of a run's latest checkpoint; where they went.

    Raises:
        ValueError: the folder is none of these.
        OSError: it cannot be written.
    """
    path = folder / CONFIG_NAME
    check_recordable(folder)
    if not path.is_file():
        found, info, _ = checkpoint.find_model(folder)
        info.alignment = options.as_json()
        write_info(found, info)
        return found / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8"))
    before = content.get(SECTION)
    beside = before if isinstance(before, dict) else {}
    kept = {key: beside[key] for key in (TOKENIZER_KEY, TEXT_TO_TEXT_KEY) if key in beside}
    content[SECTION] = options.as_json() | kept
    remove_abandoned(path)
    write_durably(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return path
