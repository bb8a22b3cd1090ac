"""One run of `mono` or `parallel`: plan every source, encode what is missing, then bring the manifest up to date.

The order of publication is decided here; how text is read, encoded and written is decided elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.data_dir.held import Choice, check_names, sources_to_replace
from data_prep.data_dir.retire import markers_of, remove_leftovers, remove_unmarked, superseded, unlink_all
from data_prep.files import locked, write_durably
from data_prep.parallel.ranks import spread_evenly, world
from data_prep.parallel.wire import work_of_ranks
from data_prep.parallel.workers import run_tasks
from data_prep.plan.deduplicate import mark_duplicates
from data_prep.plan.make_plan import ensure_text
from data_prep.plan.plan_sources import full_disk_told, make_plans
from data_prep.plan.source_plan import Source, SourcePlan
from data_prep.progress import ByteProgress
from data_prep.run.binarize import ShardJob, ShardResult, binarize, shard_header
from data_prep.text.spool import spool_in
from data_prep.token_files.manifest import (
    MANIFEST_LOCK,
    TOKENIZER_FOLDER,
    install_tokenizer,
    lock_file,
    rebuild,
    size_problem,
    wanted_file,
)
from data_prep.token_files.marker import read_marker
from data_prep.token_files.token_file import shard_file
from data_prep.tokenizers.tokenizer import Tokenizer

SHARED_SECONDS = 60  # how long a shared file system may take to show what another machine has written


@dataclass
class JobOutcome:
    """What a run did."""

    made: int = 0
    """Shards encoded now."""
    skipped: int = 0
    """Shards that were complete already."""
    replaced: int = 0
    """Older shards removed, of the same sources with other settings or of sources that these replace."""
    written: Counter[str] = field(default_factory=Counter)
    """How much is in the shards made now, by what it is: document, pair, sentence, token, link."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Records dropped now, by reason."""
    failures: list[str] = field(default_factory=list)
    """One line for each source that could not be read; the others are done all the same."""
    planned: list[tuple[SourcePlan, int]] = field(default_factory=list)
    """Of a dry run, every source's plan and how many of its shards are still to be made."""

    def fail(self, reason: str) -> None:
        """Count a source that cannot be read, and tell of it at once."""
        self.failures.append(reason)
        print(f"error: {' '.join(reason.split())}", file=sys.stderr)

    def add(self, result: ShardResult) -> None:
        """Count one shard made."""
        self.made += 1
        whole = {"mono": "document", "pair": "pair"}[result.kind]
        self.written[whole] += result.counts["documents"]
        self.written["sentence"] += result.counts["sequences"]
        self.written["token"] += result.counts["tokens"]
        self.written["link"] += result.counts.get("links", 0)
        self.dropped.update(result.dropped)


def run_job(
    sources: list[Source],
    tokenizer_dir: Path,
    data_dir: Path,
    workers: int,
    max_bad_rate: float,
    dry_run: bool = False,
    choice: Choice = "refuse",
) -> JobOutcome:
    """Add sources to a data folder. The same sources give the same files, whatever the number of workers and ranks.

    Each rank has so many workers. A source that cannot be read is told of on standard error, before anything is encoded; the
    others are done all the same.

    A dry run reads the sources to plan them, fills the outcome's `planned`, and writes nothing.

    Args:
        choice: what becomes of sources in the folder that are corrected or renamed by these, see `sources_to_replace`.

    Raises:
        ValueError: the tokenizer is missing or not the folder's, an option is out of range, a source is given twice or is in
            the folder under another name or with other content, or another run is at work on one.
    """
    if workers < 1:
        raise ValueError(f"--workers {workers}: must be at least 1")
    if not 0 <= max_bad_rate < 1:
        raise ValueError(f"--max-bad-rate {max_bad_rate}: must be from 0 to below 1; 0.001 is a line in a thousand")
    tokenizer = Tokenizer.load(tokenizer_dir)
    outcome = JobOutcome()
    if dry_run:
        plans = make_plans(sources, workers, max_bad_rate, None, outcome.fail)
        outcome.planned = _planned(plans, tokenizer, data_dir, choice)
        return outcome
    with full_disk_told(data_dir), ExitStack() as stack:
        spool = stack.enter_context(spool_in(data_dir))
        plans = mark_duplicates(make_plans(sources, workers, max_bad_rate, spool, outcome.fail))
        if not plans:
            return outcome
        with locked(data_dir / MANIFEST_LOCK, wait=True):  # other runs delete markers under it
            check_names(plans, data_dir, clean=True)
            replaced = sources_to_replace(plans, data_dir, choice)
        install_tokenizer(tokenizer, data_dir)
        stems = [*replaced, *(plan.source_stem for plan in plans)]
        for name in sorted({lock_file(stem) for stem in stems}):
            stack.enter_context(locked(data_dir / name, wait=False))
        for stem in stems:
            remove_leftovers(stem, data_dir)
            # whatever ends this run: what it was writing may be what filled the disk
            stack.callback(remove_leftovers, stem, data_dir)
        _say_what_is_wanted(plans, replaced, data_dir)
        missing = [_missing_shards(plan, data_dir, tokenizer.sha256) for plan in plans]
        outcome.skipped = sum(len(plan.ranges) - len(wanted) for plan, wanted in zip(plans, missing, strict=True))
        _encode_missing(plans, missing, tokenizer.kept_in(data_dir / TOKENIZER_FOLDER), data_dir, workers, outcome)
        outcome.replaced = rebuild(data_dir, partial(_retire, plans, replaced, data_dir))
        for stem in stems:
            remove_unmarked(stem, data_dir)
            (data_dir / wanted_file(stem)).unlink(missing_ok=True)
    return outcome


def _planned(
    plans: list[SourcePlan], tokenizer: Tokenizer, data_dir: Path, choice: Choice
) -> list[tuple[SourcePlan, int]]:
    """What a dry run tells: every plan and how many of its shards are still to be made; errors are those of the run."""
    check_names(plans, data_dir, clean=False)
    sources_to_replace(plans, data_dir, choice)
    return [(plan, len(_missing_shards(plan, data_dir, tokenizer.sha256))) for plan in plans]


def _say_what_is_wanted(plans: list[SourcePlan], replaced: dict[str, SourcePlan], data_dir: Path) -> None:
    """Say which shards are to give way to which, so that no manifest ever lists both, whenever this run ends."""
    for stem, plan in replaced.items():
        write_durably(data_dir / wanted_file(stem), plan.settings_stem.encode())
    for plan in plans:
        wanted = data_dir / wanted_file(plan.source_stem)
        if superseded(plan.source_stem, plan.settings_stem, data_dir):
            write_durably(wanted, plan.settings_stem.encode())
        else:
            wanted.unlink(missing_ok=True)  # an earlier run's, in which this source was to give way


def _retire(plans: list[SourcePlan], replaced: dict[str, SourcePlan], data_dir: Path) -> int:
    """Delete the markers of what has given way; replaced sources first, as they give way to what other settings made too."""
    count = sum(unlink_all(markers_of(stem, data_dir)) for stem in replaced)
    return count + sum(unlink_all(superseded(plan.source_stem, plan.settings_stem, data_dir)) for plan in plans)


def _encode_missing(
    plans: list[SourcePlan],
    missing: list[set[int]],
    tokenizer: Tokenizer,
    data_dir: Path,
    workers: int,
    outcome: JobOutcome,
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


@work_of_ranks
def _encode_share(
    tokenizer: Tokenizer, data_dir: Path, workers: int, share: list[tuple[SourcePlan, set[int]]]
) -> Iterator[ShardResult]:
    """One rank's part of the encoding."""
    if share and not (data_dir / MANIFEST_LOCK).exists():
        raise ValueError(f"{data_dir}: not the folder that rank 0 sees; --out must be on a file system that all share")
    tasks = min(workers, max(1, sum(len(wanted) for _, wanted in share)))
    with full_disk_told(data_dir):
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
                f"{data_dir}: shards of {missing[0]} that other ranks made cannot be seen by rank 0; --out must be on "
                "a file system that all share"
            )
        time.sleep(1)


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
        marker = read_marker(shard_file(stem, ".json"))
    except ValueError:
        return False
    sizes = {suffix: file["bytes"] for suffix, file in marker["files"].items()}
    return all(marker.get(name) == value for name, value in header.items()) and not size_problem(stem, sizes)


def _jobs(share: list[tuple[SourcePlan, set[int]]], data_dir: Path, tokenizer_sha256: str) -> Iterator[ShardJob]:
    for plan, wanted in share:
        ensure_text(plan, wanted)
        for index in sorted(wanted):
            # an old marker must not vouch for files that are being made again
            shard_file(data_dir / plan.stem(index), ".json").unlink(missing_ok=True)
            header = shard_header(plan, index, tokenizer_sha256)
            yield ShardJob(data_dir, plan, index, header)
