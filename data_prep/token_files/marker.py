"""The commit marker of a shard: what it was made from and what is in it, written last, with a checksum of itself.

Knows one marker at a time; nothing of the shard's content or of which shards belong together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.files import canonical_json, read_json, sha256_of_json, write_durably

MEND = "run again the mono or parallel command that made it"
CHECKSUM = "marker_sha256"
FILE = {"bytes": int, "sha256": str}
SHAPE = {
    "schema": int,
    "kind": str,
    "languages": [str],
    "tokenizer_sha256": str,
    "sentencepiece": str,
    "source": {"files": [{"name": str, **FILE, "start": int, "end": int}], "first_line": int, "lines": int},
    "shard": {"index": int, "count": int, "continues_document": bool},
    "settings": dict,
    "settings_sha256": str,
    "counts": dict.fromkeys(("documents", "sequences", "tokens", "max_length"), int),
    "dropped": dict,
    "files": dict,
}
FIELDS = {*SHAPE, "duplicates_sha256", "text_sha256"}
NAME_HASH = 8  # hex digits of a full hash in a shard's name


def write_marker(path: Path, marker: dict[str, Any]) -> None:
    """Publish a marker with its checksum."""
    write_durably(path, canonical_json({**marker, CHECKSUM: _checksum(marker)}))


def read_marker(path: Path) -> dict[str, Any]:
    """A marker, without its checksum (earlier versions wrote none).

    Raises:
        ValueError: missing, not JSON, without a field, or not as it was written.
    """
    marker = read_json(path, MEND)
    if (
        not _fits(marker, SHAPE)
        or not all(_fits(file, FILE) for file in marker["files"].values())
        or not all(type(count) is int for count in marker["dropped"].values())
    ):
        raise ValueError(f"{path}: damaged, a field of a marker is missing or of another type; {MEND}")
    if CHECKSUM in marker and marker.pop(CHECKSUM) != _checksum(marker):
        raise ValueError(f"{path}: content is not what was written ({CHECKSUM}); {MEND}")
    return dict(marker)


def _checksum(marker: dict[str, Any]) -> str:
    # without line breaks, which Python's encoder makes ten times as slowly
    text = json.dumps(marker, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(_fits(value.get(name), inner) for name, inner in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(item, shape[0]) for item in value)
    return type(value) is shape


def source_identity(kind: str, languages: Iterable[str], files: Iterable[tuple[str, str]]) -> str:
    """The full hash of a source, from names and hashes of its files; the first digits stand in its shards' names."""
    return sha256_of_json([kind, list(languages), [list(file) for file in files]])


def source_of(marker: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The source that a marker's shard was made from: kind, languages, and names and hashes of its files."""
    files = tuple((file["name"], file["sha256"]) for file in marker["source"]["files"])
    return marker["kind"], tuple(marker["languages"]), files


def identity_of(marker: dict[str, Any]) -> str:
    """`source_identity` of the source that a marker's shard was made from."""
    return source_identity(*source_of(marker))


def is_named_by_its_source(path: Path, marker: dict[str, Any]) -> bool:
    """Whether a marker's file has the hashes of what is in it: of another one a source or the settings were changed."""
    name = path.name.removesuffix(".json").rsplit("-", 3)
    hashes = [identity_of(marker), marker["settings_sha256"]]
    return name[1:3] == [sha256[:NAME_HASH] for sha256 in hashes]
