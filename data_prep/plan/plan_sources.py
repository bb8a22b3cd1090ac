"""All sources of a run, planned: shared out over ranks and workers, failures told apart, a source given twice refused.

Knows plans and who makes them; nothing of encoding or of what a data folder holds.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from data_prep.parallel.ranks import spread_evenly, world
from data_prep.parallel.wire import work_of_ranks
from data_prep.parallel.workers import run_tasks
from data_prep.plan.make_plan import make_plan
from data_prep.plan.source_plan import Source, SourcePlan
from data_prep.progress import ByteProgress
from data_prep.text.inputs import stored_bytes
from data_prep.text.spool import Spool

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def make_plans(
    sources: list[Source], workers: int, max_bad_rate: float, spool: Spool | None, tell_failure: Callable[[str], None]
) -> list[SourcePlan]:
    """Plan all sources, each in a worker; those that cannot be read are told of, in the order given, and left out.

    Raises:
        ValueError: the same source is given twice, with different settings; or two have one name and short hash.
    """
    numbered: dict[int, SourcePlan | str] = {}
    sizes = [sum(map(stored_bytes, source.paths)) for source in sources]
    shares = [[(number, sources[number]) for number in part] for part in spread_evenly(sizes, world().size)]
    with ByteProgress("reading", sum(sizes)) as progress:
        for number, plan in world().spread(partial(_plan_share, max_bad_rate, spool, workers), shares):
            numbered[number] = plan
            progress.advance(sizes[number])
    by_stem: dict[str, SourcePlan] = {}
    for plan in (numbered[number] for number in range(len(sources))):
        if isinstance(plan, str):
            tell_failure(plan)
        elif (first := by_stem.setdefault(plan.source_stem, plan)).identity != plan.identity:
            raise ValueError(same_name(plan, f"that of {first.source.paths[0]}"))
        elif first.settings != plan.settings:
            raise ValueError(f"{plan.source.paths[0]}: given twice with different settings; leave one out")
    return list(by_stem.values())


def same_name(plan: SourcePlan, other: str) -> str:
    """What to say where the short hash of a source, which is part of its shards' names, is also another source's."""
    return (
        f"{plan.source.paths[0]}: is another text than {other}, and the short hash in both shards' names is the same "
        f"({plan.source_stem}); give its file another name"
    )


@work_of_ranks
def _plan_share(
    max_bad_rate: float, spool: Spool | None, workers: int, share: list[tuple[int, Source]]
) -> Iterator[tuple[int, SourcePlan | str]]:
    """One rank's part of the planning."""
    make = partial(_plan_or_failure, max_bad_rate, spool)
    with full_disk_told(spool.data_dir if spool else Path()):
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


@contextmanager
def full_disk_told(data_dir: Path) -> Iterator[None]:
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
