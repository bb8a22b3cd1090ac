"""Takes one source out of a data folder: its shards, and what was set aside or dropped of it.

Knows names and markers; nothing of text. One that was killed is completed by repeating it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.data_dir.held import source_of_marker
from data_prep.data_dir.retire import (
    giving_way_to,
    markers_of,
    remove_leftovers,
    remove_unmarked,
    stems_on_disk,
    unlink_all,
)
from data_prep.files import locked
from data_prep.text.readers import readable_name
from data_prep.token_files.manifest import Manifest, lock_file, rebuild, wanted_file
from data_prep.token_files.marker import read_marker

SHOWN_SOURCES = 20


@dataclass(frozen=True)
class Removed:
    """What `remove` took out: the source's stem, its shards, and whether other sources dropped text as repeated."""

    stem: str
    shards: int
    duplicates_elsewhere: bool


def remove(data_dir: Path, name: str) -> Removed:
    """Take out the source of this name: of a file of it (with folders or without), or its stem as the manifest has it.

    Raises:
        ValueError: no such folder or source, several sources of this name, or a run is at work on it.
    """
    manifest = Manifest.read(data_dir)
    names = _names(data_dir, manifest)
    found = [
        stem for stem, own in names.items() if name.startswith(stem) or {name, readable_name(Path(name).name)} & own
    ]
    if len(found) != 1:
        told = "several sources have this name" if found else "no such source"
        shown = ", ".join((found or list(names))[:SHOWN_SOURCES]) or "none"
        raise ValueError(f"{name}: {told} in {data_dir}; name one of: {shown}")
    stems = [found[0], *giving_way_to(found[0], data_dir)]
    shards = 0

    def retire() -> int:
        return sum(unlink_all(markers_of(stem, data_dir)) for stem in reversed(stems))

    with locked(data_dir / lock_file(found[0]), wait=False):
        shards = rebuild(data_dir, retire)
        for stem in stems:
            remove_leftovers(stem, data_dir)
            remove_unmarked(stem, data_dir)
            (data_dir / wanted_file(stem)).unlink(missing_ok=True)
    left = Manifest.read(data_dir).sources
    return Removed(found[0], shards, any(source["dropped"].get("duplicate") for source in left))


def _names(data_dir: Path, manifest: Manifest) -> dict[str, set[str]]:
    """What each source may be called, by stem; also one of which a killed run left something."""
    names: dict[str, set[str]] = {}
    for stem in stems_on_disk(data_dir):
        markers = sorted(markers_of(stem, data_dir))
        held = source_of_marker(stem, read_marker(markers[0])) if markers else None
        names[stem] = {held.name, *held.names} if held else {Path(stem).name.rpartition("-")[0]}
    for record in manifest.sources:
        files = [file["name"] for file in record["files"]]
        names.setdefault(record["stem"].rpartition("-")[0], set()).update((*files, " + ".join(files)))
    return dict(sorted(names.items()))
