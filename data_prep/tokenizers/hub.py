"""Models of a hub as local folders: which names are a hub's, and how their files come here.

Through huggingface_hub, whose cache, resuming, tokens, progress and offline mode these are (HF_HOME, HF_TOKEN, HF_ENDPOINT,
HF_HUB_OFFLINE). Knows names of files; nothing of what is in them. The library is imported when a name of the hub is met.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<repo>(?=[^@/]+/[^@]{{1,96}}(?:@|$)){_PART}/{_PART})(?:@(?P<revision>[^\s@:?*~^\\]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MEGABYTE = 1_000_000

Choose = Callable[[Collection[str]], list[str]]
"""Of the names of a model's files those that are wanted; ValueError, which says what is missing, where they are not enough."""


@dataclass(frozen=True)
class HubName:
    """A model of the hub, ORG/NAME or ORG/NAME@REVISION."""

    repo: str
    revision: str | None = None
    """A branch, a tag or a commit; None: the main branch."""

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def is_commit(self) -> bool:
        """Whether it names one state of the model for good."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def parse_name(text: str) -> HubName | None:
    """The hub's name that a text may be, ORG/NAME[@REVISION]; None where it can only be a path."""
    found = _NAME.fullmatch(text)
    if found is None or text.endswith(".pt"):
        return None
    repo = found["repo"]
    return None if "--" in repo or ".." in repo or repo.endswith(".git") else HubName(repo, found["revision"])


def hub_name(place: Path) -> HubName | None:
    """The hub's name that a place is; None where it is a path. What lies on this machine goes before the hub."""
    name = parse_name(str(place))
    return None if name is None or os.path.lexists(place) else name


def place_of(text: str | Path) -> Path:
    """A place as a user has named it, so that `hub_name` does not take for a name what was written as a path.

    A path forgets a leading `./` and a slash at its end: where it is not there, it becomes absolute.
    """
    place = Path(text)
    if isinstance(text, str) and (text.startswith("./") or text.endswith("/")) and not os.path.lexists(place):
        return place.absolute()
    return place


@cache
def fetch(name: HubName, choose: Choose, patterns: tuple[str, ...], wanted: str) -> Path:
    """The folder with a model's files, a commit's, in the library's cache; what is missing there is fetched.

    A process asks once. A commit that the cache has whole is not asked for; other revisions are, and where the hub cannot be
    reached the cache's are taken, which is said.

    Args:
        choose: which of the model's files.
        patterns: of the names that are chosen where the model has them; a cache that lacks one of those is not whole.
        wanted: what else a user may have meant by the name, as advice.

    Raises:
        ValueError: there is no such model or revision, it may not be read, a file is missing, or it cannot be fetched; one
            line that names what was given and what to do.
    """
    cached = _in_cache(name, choose, patterns)
    if cached is not None and name.is_commit:
        return cached
    hub = _library()
    try:
        info = hub.HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
        if cached is not None and cached.name == info.sha:
            return cached
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        chosen = _chosen(name, choose, sizes)
        _announce(name, info.sha, {path: sizes[path] for path in chosen})
        with bars_on_terminals():
            return Path(hub.snapshot_download(name.repo, revision=name.revision, allow_patterns=chosen))
    except (hub.errors.HTTPError, OSError, RuntimeError) as error:
        if cached is None or not is_unreachable(error):
            _refuse(name, error, wanted)
        print(f"note: {name}: {why_unreachable(error)}; taken from the cache, commit {cached.name}", file=sys.stderr)
        return cached


@contextmanager
def bars_on_terminals() -> Iterator[None]:
    """The library's bars, which it draws on standard error, are for terminals alone."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _library() -> Any:
    import huggingface_hub
    import huggingface_hub.errors

    return huggingface_hub


def _chosen(name: HubName, choose: Choose, names: Collection[str]) -> list[str]:
    try:
        return choose(names)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _in_cache(name: HubName, choose: Choose, patterns: Sequence[str]) -> Path | None:
    """The folder of what the cache has of a model, if that is all that was wanted of it."""
    hub = _library()
    with suppress(OSError, ValueError):
        found = hub.snapshot_download(
            name.repo, revision=name.revision, allow_patterns=list(patterns), local_files_only=True
        )
        choose([path.name for path in Path(found).iterdir() if path.is_file()])
        return Path(found)
    return None


def _announce(name: HubName, commit: str, sizes: dict[str, int]) -> None:
    """Say what is fetched; ValueError where the disk has not the room for it."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    cached = partial(_library().try_to_load_from_cache, name.repo, revision=commit)
    needed = sum(size for path, size in sizes.items() if not isinstance(cached(path), str))
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    if needed > free:
        raise ValueError(
            f"{name}: takes {needed:,} bytes in {place}, and the disk has {free:,} left, {needed - free:,} too few; make room, "
            "or set HF_HOME to a folder on another disk"
        )
    size = f"{needed / _MEGABYTE:,.1f} MB to fetch"
    print(f"note: {name}: commit {commit} of {constants.ENDPOINT}, {size}", file=sys.stderr)


def is_unreachable(error: Exception) -> bool:
    """Whether the hub did not answer, or only that it cannot: not what it has said of the model."""
    errors = _library().errors
    if isinstance(error, errors.LocalEntryNotFoundError):  # the library's own word for no answer
        return True
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, (errors.HTTPError, errors.OfflineModeIsEnabled))


def why_unreachable(error: Exception) -> str:
    """Why the hub did not answer, in words."""
    hub = _library()
    from huggingface_hub import constants

    if isinstance(error, hub.errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, hub.errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
        return f"{constants.ENDPOINT} answers {error.response.status_code}"
    return f"{constants.ENDPOINT} cannot be reached ({first_line(error.__cause__ or error)})"


def first_line(error: BaseException) -> str:
    """What an error says, as one line that can stand within another."""
    line = str(getattr(error, "strerror", None) or error).strip().partition("\n")[0]
    return line.rstrip(". ") or type(error).__name__


def _refuse(name: HubName, error: Exception, wanted: str) -> NoReturn:
    """Raise what a user can act on, for whatever has kept a model from coming."""
    from huggingface_hub import constants

    errors, place = _library().errors, constants.HF_HUB_CACHE
    page = f"{constants.ENDPOINT}/{name.repo}"
    if isinstance(error, errors.GatedRepoError):
        mend = f"is read by those who have agreed to its terms; agree at {page}, then `hf auth login` or HF_TOKEN=…"
    elif isinstance(error, errors.RepositoryNotFoundError):
        mend = (
            f"no such folder, nor a model of {constants.ENDPOINT} that you may read; {wanted}; of a private model, "
            "`hf auth login` or HF_TOKEN=… first"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        mend = f"the model has no revision {name.revision or 'main'}; give a branch, a tag or a commit of {page}"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        mend = (
            f"no such folder, nor whole in the cache {place}, and HF_HUB_OFFLINE is set; {wanted}; fetch it with a network "
            f"by {_by_hand(name)}"
        )
    elif is_unreachable(error):
        why = why_unreachable(error)
        mend = f"no such folder, nor whole in the cache {place}, and {why}; {wanted}, or call again with a network"
    elif isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        answer = f"{constants.ENDPOINT} answers {error.response.status_code}"
        mend = f"{answer}: you may not read it; see to your token (`hf auth login`, HF_TOKEN)"
    else:
        mend = (
            f"cannot be fetched to {place} ({first_line(error)}); call again, what has come is kept: {_by_hand(name)}"
        )
    raise ValueError(f"{name}: {mend}") from None


def _by_hand(name: HubName) -> str:
    return f"`hf download {name.repo}{'' if name.revision is None else f' --revision {name.revision}'}`"
