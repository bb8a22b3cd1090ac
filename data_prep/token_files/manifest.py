"""The one list that readers trust: which shards of a data folder are complete, and what they hold.

Built from the shards' markers by `rebuild`, loaded by training with `Manifest.load`; knows nothing of text or encoding.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.files import canonical_json, locked, remove_temporaries, write_durably
from data_prep.token_files.json_parts import read_in_parts
from data_prep.token_files.marker import MEND, read_marker, source_of
from data_prep.token_files.shard import LINKS, Shard
from data_prep.token_files.token_file import SCHEMA, Kind, shard_file
from data_prep.tokenizers.tokenizer import META_NAME, Tokenizer, read_identity

MANIFEST_NAME = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
LOCKS = "locks"
MANIFEST_LOCK = f"{LOCKS}/manifest.lock"
STAT_THREADS = 16
KINDS: dict[str, Kind] = {"mono": "mono", "pair": "pair"}
KIND_FOLDERS = tuple(KINDS)


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds. Made by `Manifest.load`."""

    data_dir: Path
    """The folder."""
    tokenizer_sha256: str
    """Hash of the SentencePiece model that made every id."""
    vocab_size: int
    """SentencePiece pieces + 2 (`<pad>` and `<mask>`)."""
    mono: dict[str, list[Shard]]
    """Language → its shards, sorted by stem."""
    pairs: dict[str, list[Shard]]
    """"source-target" → its shards, sorted by stem."""
    sources: list[dict[str, Any]]
    """One record per corpus given to `mono` or `parallel`: files, settings, what was dropped and why."""
    content_sha256: str = field(repr=False)

    @property
    def tokenizer_dir(self) -> Path:
        """The folder's own copy of the tokenizer."""
        return self.data_dir / TOKENIZER_FOLDER

    @property
    def shards(self) -> list[Shard]:
        """Every shard, monolingual ones first, in the manifest's order."""
        return [shard for group in (self.mono, self.pairs) for shards in group.values() for shard in shards]

    def digest(self) -> str:
        """sha256 of the manifest's content: the identity of the data, recorded in checkpoints."""
        return self.content_sha256

    @classmethod
    def load(cls, data_dir: Path) -> Manifest:
        """Read the manifest and check that every shard's files are there with the sizes it says.

        Raises:
            ValueError: no or a damaged manifest, another schema, a missing shard file or one of the wrong size.
        """
        manifest = cls.read(data_dir)
        # a network file system answers a question in half a millisecond: ask for many files at a time
        shards = manifest.shards
        parts = [shards[first::STAT_THREADS] for first in range(STAT_THREADS)]
        with ThreadPoolExecutor(STAT_THREADS) as pool:
            for problem in pool.map(_first_size_problem, parts):
                if problem:
                    raise ValueError(f"{problem}; {MEND}")
        return manifest

    @classmethod
    def read(cls, data_dir: Path) -> Manifest:
        """Read the manifest without a look at the shards: for `verify`, which tells of all of them.

        Raises:
            ValueError: no or a damaged manifest, or another schema.
        """
        data_dir = Path(data_dir)
        path = data_dir / MANIFEST_NAME
        groups: dict[str, dict[str, list[Shard]]] = {"mono": defaultdict(list), "pair": defaultdict(list)}
        languages: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for all shards of a language

        def take(records: list[Any], before: dict[str, Any]) -> None:
            _check_schema(before, path)
            for record in records:
                shard = _shard_of(record, data_dir, languages)
                groups[shard.kind][shard.key].append(shard)

        try:
            content, digest = read_in_parts(path, "shards", take)
            _check_schema(content, path)
            tokenizer = content["tokenizer"]
            if "shards" not in content or not (
                type(tokenizer["vocab_size"]) is int and type(content["sources"]) is list
            ):
                raise TypeError("shards, vocab_size or sources")
            return cls(
                data_dir=data_dir,
                tokenizer_sha256=tokenizer["sha256"],
                vocab_size=tokenizer["vocab_size"],
                mono=dict(groups["mono"]),
                pairs=dict(groups["pair"]),
                sources=content["sources"],
                content_sha256=digest,
            )
        except (FileNotFoundError, NotADirectoryError):
            advice = "give a folder written by `python -m data_prep mono` or `parallel`"
            raise ValueError(f"{path}: no such file; {advice}") from None
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged, no usable field {error}; {MEND}") from None
        except _OtherSchemaError as error:
            raise ValueError(str(error)) from None
        except ValueError as error:
            raise ValueError(f"{path}: damaged, not valid JSON or out of range ({error}); {MEND}") from None


class _OtherSchemaError(ValueError):
    """The manifest is of another version."""


def _check_schema(content: dict[str, Any], path: Path) -> None:
    if content.get("schema") != SCHEMA:
        raise _OtherSchemaError(f"{path}: schema is not {SCHEMA}, the one that this version reads; {MEND}")


def _shard_of(record: Any, data_dir: Path, languages: dict[tuple[str, ...], tuple[str, ...]]) -> Shard:
    named, files = tuple(record["languages"]), record["files"]
    if named not in languages:
        if not named or not all(isinstance(language, str) for language in named):
            raise TypeError("languages")
        languages[named] = named
    if not isinstance(record["stem"], str):
        raise TypeError("stem")
    bin_file, idx_file = files["bin"], files["idx"]
    return Shard(
        data_dir,
        record["stem"],
        KINDS[record["kind"]],
        languages[named],
        record["counts"],
        (bin_file["bytes"], idx_file["bytes"]),
        (bin_file["sha256"], idx_file["sha256"]),
        (files[LINKS]["bytes"], files[LINKS]["sha256"]) if LINKS in files else None,
    )


def size_problem(stem: Path, sizes: dict[str, int]) -> str | None:
    """What is wrong with the sizes of a shard's files, in one line, or None."""
    for suffix, size in sizes.items():
        path = shard_file(stem, f".{suffix}")
        try:
            found = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{path}: shard file is missing"
        if found != size:
            return f"{path}: {found} bytes, {size} were written"
    return None


def _first_size_problem(shards: list[Shard]) -> str | None:
    for shard in shards:
        # names as text: making Path objects of a hundred thousand takes longer than asking for their sizes
        stem = f"{shard.folder}/{shard.name}"
        for suffix, size in shard.bytes.items():
            try:
                is_there = os.stat(f"{stem}.{suffix}").st_size == size
            except OSError:
                is_there = False
            if not is_there and (problem := size_problem(shard.stem, shard.bytes)):
                return problem
    return None


def marker_files(data_dir: Path) -> list[Path]:
    """The files of all commit markers below a data folder, sorted."""
    found = (path for kind in KIND_FOLDERS for path in (data_dir / kind).glob("*/*.json"))
    return sorted(path for path in found if path.name[0] != ".")


def read_markers(data_dir: Path) -> dict[str, dict[str, Any]]:
    """All commit markers below a data folder: stem relative to it (posix) → marker, sorted by stem.

    Raises:
        ValueError: one is damaged.
    """
    markers = {}
    for path in marker_files(data_dir):
        # a run on another source may delete a marker of its own meanwhile
        if path.exists():
            markers[path.relative_to(data_dir).as_posix().removesuffix(".json")] = read_marker(path)
    return dict(sorted(markers.items()))


def lock_file(source_stem: str) -> str:
    """The lock of a source's runs, relative to the data folder."""
    return f"{LOCKS}/{source_stem.replace('/', '-')}.lock"


def wanted_file(source_stem: str) -> str:
    """Which of a source's settings its shards are being made with while older ones are there, likewise.

    Its content is the common stem of the shards that replace the others once all of them are complete.
    """
    return f"{LOCKS}/{source_stem.replace('/', '-')}.wanted"


def install_tokenizer(tokenizer: Tokenizer, data_dir: Path) -> None:
    """Copy the tokenizer into the data folder on its first run; later runs must bring the same one.

    Raises:
        ValueError: the data folder was made with another tokenizer; names both hashes.
    """
    own = data_dir / TOKENIZER_FOLDER
    with locked(data_dir / MANIFEST_LOCK, wait=True):
        if not (own / META_NAME).exists():
            tokenizer.save(own)
    present, _ = read_identity(own)
    if present != tokenizer.sha256:
        raise ValueError(
            f"--tokenizer has sha256 {tokenizer.sha256}, {data_dir} was made with sha256 {present}; "
            f"give {own} or another --out"
        )


def rebuild(data_dir: Path, retire: Callable[[], int] = lambda: 0) -> int:
    """Write `manifest.json` from the markers of every complete source; what `retire` returns.

    Sorted and without times: the same shards give the same bytes. A source some of whose shards are missing (its run
    was killed, or goes on) is left out. `retire` deletes markers while no other run can read them.

    Raises:
        ValueError: a marker of another tokenizer, or a shard whose files do not have the recorded sizes.
    """
    with locked(data_dir / MANIFEST_LOCK, wait=True):
        remove_temporaries(data_dir, MANIFEST_NAME)
        retired = retire()
        write_durably(data_dir / MANIFEST_NAME, canonical_json(content_of(data_dir)))
        return retired


def content_of(data_dir: Path) -> dict[str, Any]:
    """What the manifest has to say, from the markers alone (see `rebuild`)."""
    tokenizer_sha256, vocab_size = read_identity(data_dir / TOKENIZER_FOLDER)
    shards, sources = [], []
    for settings_stem, members in complete_sources(data_dir).items():
        sources.append(_source_record(settings_stem, [marker for _, marker in members]))
        shards += [_shard_record(data_dir, stem, marker) for stem, marker in members if marker["files"]]
    return {
        "schema": SCHEMA,
        "tokenizer": {"sha256": tokenizer_sha256, "vocab_size": vocab_size},
        "shards": shards,
        "sources": sources,
    }


def complete_sources(data_dir: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """The sources all of whose shards have a marker: stem → its shards' stems and markers; all sorted.

    Raises:
        ValueError: a marker of another tokenizer.
    """
    tokenizer_sha256, _ = read_identity(data_dir / TOKENIZER_FOLDER)
    found: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for stem, marker in read_markers(data_dir).items():
        if marker["tokenizer_sha256"] != tokenizer_sha256:
            raise ValueError(
                f"{data_dir / stem}.json: made with tokenizer {marker['tokenizer_sha256']}, the folder's is "
                f"{tokenizer_sha256}; delete this shard's files or {MEND}"
            )
        found[stem.rpartition("-")[0]].append((stem, marker))
    complete = {stem: members for stem, members in sorted(found.items()) if _is_complete(members)}
    return {stem: members for stem, members in complete.items() if not _is_replaced(data_dir, stem, complete)}


def _is_complete(members: list[tuple[str, dict[str, Any]]]) -> bool:
    """Whether shards of one name are all of one source; those that two sources of one name left are not."""
    markers = [marker for _, marker in members]
    numbers = [marker["shard"]["index"] for marker in markers]
    made_of = {(marker["shard"]["count"], marker["settings_sha256"], *source_of(marker)) for marker in markers}
    return numbers == list(range(markers[0]["shard"]["count"])) and len(made_of) == 1


def _is_replaced(data_dir: Path, settings_stem: str, complete: Container[str]) -> bool:
    """Whether a source's shards with these settings stand back for complete ones with the settings that are wanted.

    Both are there for a moment, and after a kill in that moment until the next run on the source.
    """
    wanted = data_dir / wanted_file(settings_stem.rpartition("-")[0])
    return wanted.is_file() and settings_stem != wanted.read_text() and wanted.read_text() in complete


def _shard_record(data_dir: Path, stem: str, marker: dict[str, Any]) -> dict[str, Any]:
    problem = size_problem(data_dir / stem, {suffix: marker["files"][suffix]["bytes"] for suffix in marker["files"]})
    if problem:
        raise ValueError(f"{problem}; {MEND}")
    return {"stem": stem, **{name: marker[name] for name in ("kind", "languages", "counts", "files")}}


def _source_record(source_stem: str, markers: list[dict[str, Any]]) -> dict[str, Any]:
    first = markers[0]
    dropped: dict[str, int] = defaultdict(int)
    for marker in markers:
        for reason, count in marker["dropped"].items():
            dropped[reason] += count
    return {
        "stem": source_stem,
        "dropped": dict(dropped),
        "files": [{name: file[name] for name in ("name", "bytes", "sha256")} for file in first["source"]["files"]],
        "lines": sum(marker["source"]["lines"] for marker in markers),
        **{name: first[name] for name in ("kind", "languages", "sentencepiece", "settings", "settings_sha256")},
    }
