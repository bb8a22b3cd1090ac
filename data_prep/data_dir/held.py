"""The sources that a data folder holds, and which of a run's are there already under another name or with other content.

Knows markers, names and hashes; nothing of text or of how shards are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_prep.data_dir.retire import giving_way_to, markers_of
from data_prep.files import sha256_of_json
from data_prep.plan.plan_sources import same_name
from data_prep.plan.source_plan import SourcePlan
from data_prep.token_files.manifest import TOKENIZER_FOLDER, complete_sources
from data_prep.token_files.marker import identity_of, is_named_by_its_source, read_marker
from data_prep.tokenizers.tokenizer import META_NAME

Choice = Literal["refuse", "replace", "add"]


@dataclass(frozen=True)
class HeldSource:
    """A source of a data folder, or of a run."""

    stem: str
    """Folder, name and hash, common to its shards of whatever settings: `mono/de/de.txt.xz-1a2b3c4d`."""
    kind: str
    """Either "mono" or "pair"."""
    languages: tuple[str, ...]
    """One language, or (source, target)."""
    names: tuple[str, ...]
    """Of its files, without folders."""
    texts: frozenset[str]
    """Hashes that every source of the same text in the same languages has, under whatever name: of the files as they are
    stored and, where its marker tells, of the text in them."""

    @property
    def name(self) -> str:
        """File name or names."""
        return " + ".join(self.names)

    def why_not_beside(self, other: HeldSource) -> str | None:
        """Why this source and another one are not simply two, in words; None if they are."""
        if self.texts & other.texts:
            return "the same text" if self.names == other.names else f"the same text, as {other.name}"
        same = (self.kind, self.languages, self.names) == (other.kind, other.languages, other.names)
        return "a source of this name with other content" if same else None


def source_of_plan(plan: SourcePlan) -> HeldSource:
    """A run's source."""
    files = [(file.name, file.sha256) for file in plan.files]
    texts = [file.text_sha256 for file in plan.files]
    return _source(plan.source_stem, plan.source.kind, plan.source.languages, files, texts)


def source_of_marker(stem: str, marker: dict[str, Any]) -> HeldSource:
    """The source that the marker of one of its shards describes."""
    files = [(file["name"], file["sha256"]) for file in marker["source"]["files"]]
    return _source(stem, marker["kind"], marker["languages"], files, marker.get("text_sha256", ()))


def _source(
    stem: str, kind: str, languages: Iterable[str], files: Sequence[tuple[str, str]], texts: Sequence[str]
) -> HeldSource:
    languages = tuple(languages)
    identities = set()
    for what, all_hashes in (("stored", [sha256 for _, sha256 in files]), ("text", list(texts))):
        # without that of word links, which make no other text of a pair
        if hashes := all_hashes[: len(languages)]:
            # pairs with their sides the other way round are the same text
            sides = sorted(zip(languages, hashes, strict=True)) if len(hashes) > 1 else [*sorted(languages), *hashes]
            identities.add(sha256_of_json([what, kind, sides]))
    return HeldSource(stem, kind, languages, tuple(name for name, _ in files), frozenset(identities))


def held_sources(data_dir: Path) -> dict[str, HeldSource]:
    """The complete sources of a data folder by stem; none where there is no such folder yet."""
    if not (data_dir / TOKENIZER_FOLDER / META_NAME).exists():
        return {}
    stems = {stem.rpartition("-")[0]: members for stem, members in complete_sources(data_dir).items()}
    return {stem: source_of_marker(stem, members[0][1]) for stem, members in stems.items()}


def check_names(plans: Sequence[SourcePlan], data_dir: Path, clean: bool) -> None:
    """See that what a data folder holds under the names of these plans' shards was made from the same.

    A damaged marker vouches for nothing; with `clean` it is deleted, and its shard will be made again.

    Raises:
        ValueError: a shard of that name is of another source, or was made with other settings: only the short hashes in
            the names are equal.
    """
    for plan in plans:
        for path in sorted(markers_of(plan.source_stem, data_dir)):
            marker = _sound_marker(path)
            if marker is None:
                if clean:
                    path.unlink()
                continue
            if identity_of(marker) != plan.identity:
                raise ValueError(same_name(plan, f"one in {data_dir}"))
            settings_stem = path.relative_to(data_dir).as_posix().rpartition("-")[0]
            if settings_stem == plan.settings_stem and marker["settings_sha256"] != plan.settings.sha256:
                raise ValueError(
                    f"{path}: was made with other settings, whose short hash is the same; change --shard-bytes by one"
                )


def _sound_marker(path: Path) -> dict[str, Any] | None:
    try:
        marker = read_marker(path)
    except ValueError:
        return None
    return marker if is_named_by_its_source(path, marker) else None


def sources_to_replace(plans: Sequence[SourcePlan], data_dir: Path, choice: Choice) -> dict[str, SourcePlan]:
    """The sources of a data folder (by stem) that leave it for one of a run's.

    A source that is new to the folder is compared with those that the run does not name: equal names with other content are
    a corrected corpus, and equal text is the same corpus.

    Raises:
        ValueError: there are such sources, and the user has not chosen; or two of the run's own are the same text.
    """
    held, given = held_sources(data_dir), {plan.source_stem: source_of_plan(plan) for plan in plans}
    replaced: dict[str, SourcePlan] = {}
    for plan in plans:
        new = given[plan.source_stem]
        # those of a run that was killed
        replaced |= dict.fromkeys(giving_way_to(new.stem, data_dir), plan)
        if new.stem in held or choice == "add":
            continue
        for twin in given.values():
            if twin.stem != new.stem and twin.texts & new.texts:
                raise ValueError(f"{new.name}: the same text as {twin.name}; leave one out, or take both with --add")
        for old in held.values():
            why = None if old.stem in given else new.why_not_beside(old)
            if why and choice == "refuse":
                raise ValueError(
                    f"{new.name}: {data_dir} holds {why} ({old.stem}); put it in the other's place with --replace, or keep "
                    "both with --add"
                )
            if why:
                replaced[old.stem] = plan
    return replaced
