"""Where a shard's bad records, and samples of what filters dropped from it, are kept.

Knows folders and JSON lines; nothing of what is in them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_prep.files import write_durably

QUARANTINE_FOLDER = "quarantine"
DROPPED_FOLDER = "dropped"


def quarantine_file(data_dir: Path, stem: str) -> Path:
    """Where a shard's bad records are set aside: JSONL with file, line, reason and raw bytes in base64."""
    return data_dir / QUARANTINE_FOLDER / f"{stem}.jsonl"


def dropped_file(data_dir: Path, stem: str) -> Path:
    """Where a few of the records that each filter dropped from a shard are kept: JSONL with reason, line and text."""
    return data_dir / DROPPED_FOLDER / f"{stem}.jsonl"


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Write them, a line each; no file without any."""
    if records:
        lines = [json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in records]
        write_durably(path, "".join(lines).encode())
