"""How shards and sources leave a data folder: their markers first, under the manifest's lock, then their files.

A kill at any moment leaves no source half listed. Knows names of files; nothing of what they hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data_prep.files import remove_temporaries
from data_prep.token_files.manifest import KIND_FOLDERS, LOCKS, wanted_file
from data_prep.token_files.set_aside import DROPPED_FOLDER, QUARANTINE_FOLDER, dropped_file, quarantine_file
from data_prep.token_files.token_file import shard_file


def markers_of(source_stem: str, data_dir: Path) -> set[Path]:
    """The markers of a source's shards, of whatever settings."""
    return set(data_dir.glob(f"{source_stem}-*.json"))


def superseded(source_stem: str, settings_stem: str, data_dir: Path) -> set[Path]:
    """The markers of a source's shards made with other settings than these."""
    return markers_of(source_stem, data_dir) - set(data_dir.glob(f"{settings_stem}-*.json"))


def unlink_all(markers: Iterable[Path]) -> int:
    """Delete markers; how many there were. Their files stay until the manifest no longer names them."""
    count = 0
    for path in markers:
        path.unlink()
        count += 1
    return count


def remove_unmarked(source_stem: str, data_dir: Path) -> None:
    """Delete a source's files that no marker vouches for: retired shards, and what a killed run left of one."""
    for folder in (data_dir, data_dir / QUARANTINE_FOLDER, data_dir / DROPPED_FOLDER):
        for path in folder.glob(f"{source_stem}-*"):
            stem = path.relative_to(folder).with_suffix("")
            if not shard_file(data_dir / stem, ".json").exists():
                path.unlink()


def remove_leftovers(source_stem: str, data_dir: Path) -> None:
    """Delete what a killed run on a source was writing."""
    folder, _, name = source_stem.rpartition("/")
    aside = [place(data_dir, source_stem).parent for place in (quarantine_file, dropped_file)]
    for place in (data_dir / folder, *aside):
        remove_temporaries(place, f"{name}-")
    wanted = data_dir / wanted_file(source_stem)
    remove_temporaries(wanted.parent, wanted.name)


def stems_on_disk(data_dir: Path) -> list[str]:
    """Every source of which there is a file, with a marker or without; sorted."""
    files = (path for kind in KIND_FOLDERS for path in (data_dir / kind).glob("*/*") if path.name[0] != ".")
    # names end in hash, hash of the settings and number
    return sorted({path.relative_to(data_dir).as_posix().rsplit("-", 2)[0] for path in files})


def giving_way_to(source_stem: str, data_dir: Path) -> list[str]:
    """The sources that were to leave the folder for this one when a run was killed."""
    told = [path for path in (data_dir / LOCKS).glob("*.wanted") if _source_of(path) == source_stem]
    if not told:
        return []
    return [stem for stem in stems_on_disk(data_dir) if stem != source_stem and data_dir / wanted_file(stem) in told]


def _source_of(wanted: Path) -> str:
    try:
        return wanted.read_text().rpartition("-")[0]
    except FileNotFoundError:
        return ""  # a run on another source has just ended
