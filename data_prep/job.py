"""One run of `mono` or `parallel`: plan every source, encode what is missing, then bring the manifest up to date.

The order of publication is decided here; how text is read, encoded and written is decided elsewhere.
"""

import errno
import heapq
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.binarize import (
    DROPPED_FOLDER,
    QUARANTINE_FOLDER,
    ShardJob,
    ShardResult,
    binarize,
    dropped_file,
    quarantine_file,
    shard_header,
)
from data_prep.deduplicate import mark_duplicates
from data_prep.files import locked, read_json, remove_temporaries, write_durably
from data_prep.inputs import stored_bytes
from data_prep.manifest import (
    MANIFEST_LOCK,
    TOKENIZER_FOLDER,
    install_tokenizer,
    lock_file,
    rebuild,
    size_problem,
    wanted_file,
)
from data_prep.plan import Source, SourcePlan, ensure_text, make_plan
from data_prep.progress import ByteProgress
from data_prep.ranks import world
from data_prep.spool import Spool, spool_in
from data_prep.token_file import shard_file
from data_prep.tokenizer import Tokenizer
from data_prep.workers import run_tasks

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
SHARED_SECONDS = 60  # how long a shared file system may take to show what another machine has written


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        made: shards encoded now.
        skipped: shards that were complete already.
        replaced: shards of the same sources made with other settings, removed.
        documents, sequences, tokens: in the shards made now.
        dropped: records dropped now, by reason.
        failures: one line for each source that could not be read; the others are done all the same.
        planned: of a dry run, every source's plan and how many of its shards are still to be made.
    """

    made: int = 0
    skipped: int = 0
    replaced: int = 0
    documents: int = 0
    sequences: int = 0
    tokens: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    planned: list[tuple[SourcePlan, int]] = field(default_factory=list)

    def add(self, result: ShardResult) -> None:
        """Count one shard made."""
        self.made += 1
        self.documents += result.counts["documents"]
        self.sequences += result.counts["sequences"]
        self.tokens += result.counts["tokens"]
        self.dropped.update(result.dropped)


def run_job(
    sources: list[Source], tokenizer_dir: Path, data_dir: Path, workers: int, max_bad_rate: float, dry_run: bool = False
) -> Outcome:
    """Add sources to a data folder. The same sources give the same files, whatever the number of workers and ranks.

    Each rank has so many workers.

    A dry run reads the sources to plan them, fills the outcome's `planned`, and writes nothing.

    Raises:
        ValueError: the tokenizer is missing or not the folder's, an option is out of range, a source is given twice, or
            another run is at work on one. A source that cannot be read is no exception but one of `failures`.
    """
    if workers < 1:
        raise ValueError(f"--workers {workers}: must be at least 1")
    if not 0 <= max_bad_rate < 1:
        raise ValueError(f"--max-bad-rate {max_bad_rate}: must be from 0 to below 1; 0.001 is a line in a thousand")
    tokenizer = Tokenizer.load(tokenizer_dir)
    outcome = Outcome()
    if dry_run:
        plans = _make_plans(sources, workers, max_bad_rate, None, outcome)
        outcome.planned = [(plan, len(_missing_shards(plan, data_dir, tokenizer.sha256))) for plan in plans]
        return outcome
    with _full_disk_told(data_dir), ExitStack() as stack:
        spool = stack.enter_context(spool_in(data_dir))
        plans = mark_duplicates(_make_plans(sources, workers, max_bad_rate, spool, outcome))
        if not plans:
            return outcome
        install_tokenizer(tokenizer, data_dir)
        for name in sorted({lock_file(plan.source_stem) for plan in plans}):
            stack.enter_context(locked(data_dir / name, wait=False))
        for plan in plans:
            _remove_leftovers(plan, data_dir)
            # whatever ends this run: what it was writing may be what filled the disk
            stack.callback(_remove_leftovers, plan, data_dir)
            if _superseded(plan, data_dir):
                write_durably(data_dir / wanted_file(plan.source_stem), plan.settings_stem.encode())
        missing = [_missing_shards(plan, data_dir, tokenizer.sha256) for plan in plans]
        outcome.skipped = sum(len(plan.ranges) - len(wanted) for plan, wanted in zip(plans, missing, strict=True))
        _encode_missing(plans, missing, tokenizer.kept_in(data_dir / TOKENIZER_FOLDER), data_dir, workers, outcome)
        outcome.replaced = rebuild(data_dir, lambda: sum(_retire_superseded(plan, data_dir) for plan in plans))
        for plan in plans:
            _remove_unmarked(plan, data_dir)
            (data_dir / wanted_file(plan.source_stem)).unlink(missing_ok=True)
    return outcome


def _make_plans(
    sources: list[Source], workers: int, max_bad_rate: float, spool: Spool | None, outcome: Outcome
) -> list[SourcePlan]:
    """Plan all sources, each in a worker; those that fail go to the outcome's failures, in the order given.

    Raises:
        ValueError: the same source is given twice, with different settings.
    """
    numbered: dict[int, SourcePlan | str] = {}
    sizes = [sum(map(stored_bytes, source.paths)) for source in sources]
    shares = [[(number, sources[number]) for number in part] for part in spread_evenly(sizes, world().size)]
    with ByteProgress("reading", sum(sizes)) as progress:
        for number, plan in world().spread(partial(_plan_share, max_bad_rate, spool, workers), shares):
            numbered[number] = plan
            progress.advance(sizes[number])
    planned = [numbered[number] for number in range(len(sources))]
    outcome.failures += [plan for plan in planned if isinstance(plan, str)]
    by_stem: dict[str, SourcePlan] = {}
    for plan in planned:
        if isinstance(plan, SourcePlan) and by_stem.setdefault(plan.source_stem, plan).settings != plan.settings:
            raise ValueError(f"{plan.source.paths[0]}: given twice with different settings; leave one out")
    return list(by_stem.values())


def _plan_share(
    max_bad_rate: float, spool: Spool | None, workers: int, share: list[tuple[int, Source]]
) -> Iterator[tuple[int, SourcePlan | str]]:
    """One rank's part of the planning."""
    make = partial(_plan_or_failure, max_bad_rate, spool)
    with _full_disk_told(spool.data_dir if spool else Path()):
        yield from run_tasks(make, share, max(1, min(workers, len(share))), None)


def _plan_or_failure(
    max_bad_rate: float, spool: Spool | None, _: None, task: tuple[int, Source]
) -> tuple[int, SourcePlan | str]:
    number, source = task
    try:
        return number, make_plan(source, source.settings, max_bad_rate, spool)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        return number, str(error)


def spread_evenly(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Deal things of these sizes into parts: longest first, each to the part that has least. Their indices, in order."""
    least = [(0, part) for part in range(parts)]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        load, part = heapq.heappop(least)
        dealt[part].append(index)
        heapq.heappush(least, (load + sizes[index], part))
    return [sorted(part) for part in dealt]


def _encode_missing(
    plans: list[SourcePlan],
    missing: list[set[int]],
    tokenizer: Tokenizer,
    data_dir: Path,
    workers: int,
    outcome: Outcome,
) -> None:
    """Make the missing shards, on every rank."""
    shards = [(plan, index) for plan, wanted in zip(plans, missing, strict=True) for index in sorted(wanted)]
    sizes = [plan.ranges[index].bytes for plan, index in shards]
    shares = []
    for part in spread_evenly(sizes, world().size):
        wanted_of: dict[str, tuple[SourcePlan, set[int]]] = {}
        for plan, index in (shards[number] for number in part):
            wanted_of.setdefault(plan.source_stem, (plan, set()))[1].add(index)
        shares.append(list(wanted_of.values()))
    work = partial(_encode_share, tokenizer, data_dir, workers)
    with ByteProgress("encoding", sum(sizes)) as progress:
        for result in world().spread(work, shares):
            outcome.add(result)
            progress.advance(result.bytes)
    if world().size > 1:
        _await_shards(plans, tokenizer.sha256, data_dir)


def _encode_share(
    tokenizer: Tokenizer, data_dir: Path, workers: int, share: list[tuple[SourcePlan, set[int]]]
) -> Iterator[ShardResult]:
    """One rank's part of the encoding."""
    if share and not (data_dir / MANIFEST_LOCK).exists():
        raise ValueError(f"{data_dir}: not the folder that rank 0 sees; --out must be on a file system that all share")
    tasks = min(workers, max(1, sum(len(wanted) for _, wanted in share)))
    with _full_disk_told(data_dir):
        yield from run_tasks(binarize, _jobs(share, data_dir, tokenizer.sha256), tasks, tokenizer)


def _await_shards(plans: list[SourcePlan], tokenizer_sha256: str, data_dir: Path) -> None:
    """What other machines have written may take a while to be seen here (NFS keeps folders in a cache).

    Raises:
        ValueError: it is not seen after a minute.
    """
    deadline = time.monotonic() + SHARED_SECONDS
    while missing := [plan.source_stem for plan in plans if _missing_shards(plan, data_dir, tokenizer_sha256)]:
        if time.monotonic() > deadline:
            raise ValueError(
                f"{data_dir}: shards of {missing[0]} that other ranks made are not to be seen by rank 0; --out must be on "
                "a file system that all share"
            )
        time.sleep(1)


@contextmanager
def _full_disk_told(data_dir: Path) -> Iterator[None]:
    """The system's error for a disk without room, with the place and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise ValueError(
            f"{data_dir}: {(error.strerror or 'no space left').lower()}; make room and run the same command again, "
            "finished shards are kept"
        ) from None


def _missing_shards(plan: SourcePlan, data_dir: Path, tokenizer_sha256: str) -> set[int]:
    """Shards without a marker that says the same input, settings, tokenizer and sizes."""
    missing = set()
    for index in range(len(plan.ranges)):
        stem = data_dir / plan.stem(index)
        header = shard_header(plan, index, tokenizer_sha256)
        if not _is_complete(stem, header):
            missing.add(index)
    return missing


def _is_complete(stem: Path, header: dict[str, Any]) -> bool:
    try:
        marker = read_json(shard_file(stem, ".json"), "it is made again")
        sizes = {suffix: file["bytes"] for suffix, file in marker["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(marker.get(name) == value for name, value in header.items()) and not size_problem(stem, sizes)


def _jobs(share: list[tuple[SourcePlan, set[int]]], data_dir: Path, tokenizer_sha256: str) -> Iterator[ShardJob]:
    for plan, wanted in share:
        ensure_text(plan, wanted)
        for index in sorted(wanted):
            # an old marker must not vouch for files that are being made again
            shard_file(data_dir / plan.stem(index), ".json").unlink(missing_ok=True)
            header = shard_header(plan, index, tokenizer_sha256)
            yield ShardJob(data_dir, plan, index, header)


def _remove_leftovers(plan: SourcePlan, data_dir: Path) -> None:
    """Delete what a killed run on this source was writing."""
    folder, _, name = plan.source_stem.rpartition("/")
    aside = [place(data_dir, plan.source_stem).parent for place in (quarantine_file, dropped_file)]
    for place in (data_dir / folder, *aside):
        remove_temporaries(place, f"{name}-")
    wanted = data_dir / wanted_file(plan.source_stem)
    remove_temporaries(wanted.parent, wanted.name)


def _superseded(plan: SourcePlan, data_dir: Path) -> set[Path]:
    """The markers of this source's shards made with other settings."""
    return set(data_dir.glob(f"{plan.source_stem}-*.json")) - set(data_dir.glob(f"{plan.settings_stem}-*.json"))


def _retire_superseded(plan: SourcePlan, data_dir: Path) -> int:
    """Delete the markers of this source's shards made with other settings; how many there were.

    The token files stay until the manifest no longer names them.
    """
    markers = _superseded(plan, data_dir)
    for path in markers:
        path.unlink()
    return len(markers)


def _remove_unmarked(plan: SourcePlan, data_dir: Path) -> None:
    """Delete this source's files that no marker vouches for: retired shards, and what a killed run left of one."""
    for folder in (data_dir, data_dir / QUARANTINE_FOLDER, data_dir / DROPPED_FOLDER):
        for path in folder.glob(f"{plan.source_stem}-*"):
            stem = path.relative_to(folder).with_suffix("")
            if not shard_file(data_dir / stem, ".json").exists():
                path.unlink()
