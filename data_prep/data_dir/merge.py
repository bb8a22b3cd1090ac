"""One data folder out of several: their shards by copy or hard link, each source once, then a manifest of all.

Knows markers and files; nothing of text or of how shards are made. A merge that was killed is continued by repeating it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.data_dir.held import source_of_marker
from data_prep.data_dir.retire import remove_leftovers
from data_prep.files import BLOCK_BYTES, canonical_json, locked, publish, temporary_name
from data_prep.progress import ByteProgress
from data_prep.token_files.manifest import (
    TOKENIZER_FOLDER,
    Manifest,
    complete_sources,
    install_tokenizer,
    lock_file,
    rebuild,
    size_problem,
)
from data_prep.token_files.marker import MEND, identity_of, read_marker
from data_prep.token_files.set_aside import dropped_file, quarantine_file
from data_prep.token_files.token_file import shard_file
from data_prep.tokenizers.tokenizer import META_NAME, Tokenizer, read_identity

Members = list[tuple[str, dict[str, Any]]]  # a source's shards: stem relative to the data folder, and marker
Wanted = list[tuple[str, Path, Members]]  # sources: stem with settings, folder and shards


@dataclass
class Merged:
    """What a merge did."""

    shards: int = 0
    """Brought into the folder now."""
    present: int = 0
    """Already in the folder."""
    duplicates: int = 0
    """Sources that more than one of the folders has; they are in the result once."""


def merge(folders: list[Path], data_dir: Path, link: bool, add: bool = False) -> Merged:
    """Bring the complete sources of several data folders into one, which may hold data already.

    The result does not depend on the order of the folders. Nothing of it is in the manifest before all is there.

    Raises:
        ValueError: a folder without a manifest, behind its shards or with another tokenizer; a source that two folders
            have with different settings or, unless `add`, with different content; a damaged shard; `link` across file systems.
    """
    if any(folder.resolve() == data_dir.resolve() for folder in folders):
        raise ValueError(f"--out {data_dir}: is one of the folders to merge; give another, or only the others")
    sources = {folder: _sources(folder) for folder in folders}
    identities = {folder: read_identity(folder / TOKENIZER_FOLDER)[0] for folder in folders}
    for folder, sha256 in identities.items():
        if sha256 != identities[folders[0]]:
            raise ValueError(
                f"{folder}: made with tokenizer {sha256}, {folders[0]} with {identities[folders[0]]}; merge folders of one "
                "tokenizer"
            )
    if (data_dir / TOKENIZER_FOLDER / META_NAME).exists():  # written last: a killed merge may have left less
        sources[data_dir] = complete_sources(data_dir)
    wanted, duplicates = _without_duplicates(sources, data_dir)
    _check_hashes(wanted)
    if not add:
        _check_names(wanted)
    merged = Merged(duplicates=duplicates)
    install_tokenizer(Tokenizer.load(folders[0] / TOKENIZER_FOLDER), data_dir)
    with ExitStack() as stack:
        stems = sorted({stem.rpartition("-")[0] for stem, _, _ in wanted})
        for name in map(lock_file, stems):
            stack.enter_context(locked(data_dir / name, wait=False))
        for stem in stems:
            remove_leftovers(stem, data_dir)
            # whatever ends this merge: what it was writing may be what filled the disk
            stack.callback(remove_leftovers, stem, data_dir)
        total = sum(file["bytes"] for _, _, members in wanted for _, m in members for file in m["files"].values())
        with ByteProgress("merging", total) as progress:
            for _, folder, members in wanted:
                for stem, marker in members:
                    made = folder != data_dir and _bring(folder, data_dir, stem, marker, link)
                    merged.shards += made
                    merged.present += not made
                    progress.advance(sum(file["bytes"] for file in marker["files"].values()))
        rebuild(data_dir)
    return merged


def _sources(folder: Path) -> dict[str, Members]:
    """A folder's complete sources, which its manifest must list: one that is behind may be in the making."""
    listed = {source["stem"] for source in Manifest.read(folder).sources}
    found = complete_sources(folder)
    if found.keys() != listed:
        raise ValueError(f"{folder}: its manifest is not what its shards' markers say; {MEND}")
    return found


def _without_duplicates(sources: dict[Path, dict[str, Members]], data_dir: Path) -> tuple[Wanted, int]:
    """Each source's folder and shards, and how many times a source was there once more.

    The same text under two names is one source; what `data_dir` has stays, else its first name in the alphabet.
    """
    chosen: dict[str, tuple[str, Path, Members]] = {}
    found = sorted((folder != data_dir, stem, folder) for folder in sources for stem in sources[folder])
    for _, stem, folder in found:
        members = sources[folder][stem]
        first = members[0][1]
        files = [file["sha256"] for file in first["source"]["files"]]
        key = hashlib.sha256(canonical_json([first["kind"], first["languages"], files])).hexdigest()
        if key not in chosen:
            chosen[key] = (stem, folder, members)
            continue
        other, place, its_members = chosen[key]
        if its_members[0][1]["settings_sha256"] != first["settings_sha256"]:
            raise ValueError(
                f"{folder / stem}: the same source as {place / other} with other settings; make one of them again with "
                "the settings of the other"
            )
    again = sum(folder != data_dir for _, _, folder in found) - sum(
        folder != data_dir for _, folder, _ in chosen.values()
    )
    return list(chosen.values()), again


def _check_hashes(wanted: Wanted) -> None:
    """Refuse two sources that have one name only because the short hashes in their names are equal."""
    seen: dict[str, tuple[str, Path]] = {}
    for settings_stem, folder, members in wanted:
        source_stem, identity = settings_stem.rpartition("-")[0], identity_of(members[0][1])
        other, its_folder = seen.setdefault(source_stem, (identity, folder))
        if other != identity:
            raise ValueError(
                f"{folder / source_stem}: is another source than that of this name in {its_folder}, and the short hash in "
                "both names is the same; make one of them again from a file with another name"
            )


def _check_names(wanted: Wanted) -> None:
    """Refuse two sources of the same name and languages from two folders: one is likely to be a corrected other."""
    seen: dict[tuple[object, ...], tuple[str, Path]] = {}
    for settings_stem, folder, members in sorted(wanted, key=lambda source: source[:2]):
        source = source_of_marker(settings_stem.rpartition("-")[0], members[0][1])
        place = (source.kind, source.languages, source.names)
        other, its_folder = seen.setdefault(place, (source.stem, folder))
        if its_folder != folder:
            raise ValueError(
                f"{source.name}: with different content in {its_folder} ({other}) and {folder} ({source.stem}); remove one "
                "with `python -m data_prep remove`, or keep both with --add"
            )


def _bring(folder: Path, data_dir: Path, stem: str, marker: dict[str, Any], link: bool) -> bool:
    """Copy or link one shard's files, the marker last; False if they are there."""
    sizes = {suffix: file["bytes"] for suffix, file in marker["files"].items()}
    marker_file = shard_file(data_dir / stem, ".json")
    if marker_file.exists() and read_marker(marker_file) == marker and not size_problem(data_dir / stem, sizes):
        return False
    marker_file.parent.mkdir(parents=True, exist_ok=True)
    marker_file.unlink(missing_ok=True)
    for suffix, file in marker["files"].items():
        source, target = shard_file(folder / stem, f".{suffix}"), shard_file(data_dir / stem, f".{suffix}")
        if problem := size_problem(folder / stem, {suffix: file["bytes"]}):
            raise ValueError(f"{problem}; {MEND}")
        _bring_file(source, target, file["sha256"], link)
    for place in (quarantine_file, dropped_file):
        if place(folder, stem).exists():
            place(data_dir, stem).parent.mkdir(parents=True, exist_ok=True)
            _bring_file(place(folder, stem), place(data_dir, stem), None, link)
    _bring_file(shard_file(folder / stem, ".json"), marker_file, None, link)
    return True


def _bring_file(source: Path, target: Path, sha256: str | None, link: bool) -> None:
    temporary = temporary_name(target)
    if link:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise ValueError(f"--link: {target} is on another file system than {source}; leave --link out") from None
    elif sha256 is None:
        shutil.copyfile(source, temporary)
    elif _copy(source, temporary) != sha256:
        raise ValueError(f"{source}: content is not what was written (sha256); {MEND}")
    publish(target)


def _copy(source: Path, target: Path) -> str:
    """Copy a file's bytes; their sha256."""
    digest = hashlib.sha256()
    with open(target, "wb") as file:
        for block in _blocks(source):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
