"""Makes the plan of one source: cuts it at document or pair boundaries by its input bytes, and checks its lines.

The plan depends on the input and the settings only, never on the number of workers; it knows nothing of token ids. A
source is read to its end before anything is written, so a damaged or misaligned one leaves no shard behind.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from data_prep.filters.line_hashes import LineHashes
from data_prep.plan.cutter import BadLineCounter, Cutter
from data_prep.plan.source_plan import ShardSettings, Source, SourcePlan
from data_prep.text.blocks import count_lines, in_step, without_mark
from data_prep.text.inputs import state_of
from data_prep.text.readers import open_text
from data_prep.text.source_files import SourceReading
from data_prep.text.spool import Spool, SpoolWriter, changed
from data_prep.text.word_links import check_links

MAX_SHARDS = 100_000  # five digits in a shard's name keep names in order


def make_plan(source: Source, settings: ShardSettings, max_bad_rate: float, spool: Spool | None = None) -> SourcePlan:
    """Read a source once: hash its files, check every line, cut it into shards, and keep the text of archives.

    Args:
        max_bad_rate: share of lines that may be unusable.
        spool: where the text of archives goes; without it the plan can be shown but not carried out.

    Raises:
        ValueError: a file that cannot be read (see `readers`), no text, unequal line counts, too many bad lines, or a
            file that changed meanwhile.
    """
    with ExitStack() as stack:
        reading = SourceReading(source.paths, stack)
        plan = SourcePlan(source, settings, (), in_place=reading.in_place, spool=spool)
        writer = None
        if spool and not plan.in_place:
            plan = replace(plan, files=reading.files())
            writer = stack.enter_context(SpoolWriter(partial(_wanted, plan), reading.starts))
        cutter = Cutter(settings.shard_bytes, reading.starts, every_line=source.kind == "pair")
        bad = BadLineCounter(max_bad_rate)
        hashes = None
        if spool and settings.filters and settings.filters.finds_duplicates:
            hashes = stack.enter_context(LineHashes(spool.folder, settings.filters, settings.columns, source.languages))
        for lines in in_step(reading.sides):
            _check_equal(reading, cutter.lines, lines)
            bad.check(source.paths, settings.columns, lines, cutter.lines + 1)
            if source.has_links:
                check_links(source.paths, lines, cutter.lines + 1)
            ended = len(cutter.ranges)
            cutter.add(lines)
            if writer:
                writer.add(lines, [shard.ends for shard in cutter.ranges[ended:]])
            if hashes:
                hashes.add(lines)
        cutter.finish()
        _check_whole(source, settings, cutter)
        bad.finish(cutter.lines)
        reading.check_unchanged()
    ranges, path = tuple(cutter.ranges), hashes.path if hashes else None
    return replace(plan, files=reading.files(), ranges=ranges, bad_lines=bad.count + bad.skipped, hashes=path)


def _wanted(plan: SourcePlan, index: int, side: int) -> Path | None:
    """Where to keep the text of a shard that is still to be made."""
    assert plan.spool is not None, "asked only where there is a spool"
    return plan.spooled(index, side) if plan.spool.wants(plan.stem(index)) else None


def _check_equal(reading: SourceReading, before: int, texts: tuple[bytes, ...]) -> None:
    """Refuse files of unequal length, found where the next texts, after `before` lines, are not in step."""
    counts = list(map(count_lines, texts))
    if len(set(counts)) == 1:
        return
    totals = [before + count + sum(map(count_lines, side)) for count, side in zip(counts, reading.sides, strict=True)]
    told = ", ".join(f"{path} has {total} lines" for path, total in zip(reading.paths, totals, strict=True))
    raise ValueError(
        f"{told}; {'all' if len(totals) > 2 else 'both'} files of a pair need one line per pair: fetch them again or "
        "complete the shorter one"
    )


def _check_whole(source: Source, settings: ShardSettings, cutter: Cutter) -> None:
    if not cutter.has_text:
        raise ValueError(f"{source.paths[0]}: holds no text; give another file or leave it out")
    if len(cutter.ranges) > MAX_SHARDS:
        raise ValueError(
            f"--shard-bytes {settings.shard_bytes}: gives {len(cutter.ranges)} shards; at most {MAX_SHARDS}"
        )


def ensure_text(plan: SourcePlan, wanted: set[int]) -> None:
    """Decode an archive again if the text of a wanted shard was not kept, as its marker was there and proved wrong.

    Raises:
        ValueError: the source has changed since it was planned.
    """
    missing = (
        {i for i in wanted if not all(piece.path.exists() for piece in plan.text(i))} if not plan.in_place else set()
    )
    if not missing:
        return
    for side, path in enumerate(plan.source.paths):
        with ExitStack() as stack:
            stream = stack.enter_context(open_text(path))
            start, blocks = without_mark(stream)
            place = partial(_place_of_side, plan, missing, side)
            writer = stack.enter_context(SpoolWriter(place, (start,)))
            ends = [shard.ends[side] for shard in plan.ranges]
            position, done = start, 0
            for block in blocks:
                position += len(block)
                upto = bisect_left(ends, position, lo=done)
                writer.add((block,), [(end,) for end in ends[done:upto]])
                done = upto
        if state_of(path) != plan.files[side].state:
            raise ValueError(changed(path))


def _place_of_side(plan: SourcePlan, missing: set[int], side: int, index: int, _: int) -> Path | None:
    return plan.spooled(index, side) if index in missing else None
