"""Gives the plans of a run their repeated lines: those of the same language, or languages, are compared with each other.

Knows plans; the comparison is in `duplicates`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from data_prep.filters.bounds import MonoFilters
from data_prep.filters.duplicates import Duplicates, find_duplicates
from data_prep.plan.source_plan import SourcePlan


def mark_duplicates(plans: list[SourcePlan]) -> list[SourcePlan]:
    """The plans with their `duplicates`, where hashes were written for that; the first in the order given stays.

    Pairs are compared whichever of their languages is the source; lines with lines, documents with documents.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for number, plan in enumerate(plans):
        if plan.hashes:
            filters = plan.settings.filters
            unit = filters.drop_duplicates if isinstance(filters, MonoFilters) else "pairs"
            groups[unit, tuple(sorted(plan.source.languages))].append(number)
    marked = list(plans)
    for group in groups.values():
        hashes = [path for number in group if (path := plans[number].hashes)]
        flags = [path.with_suffix(".flags") for path in hashes]
        find_duplicates(hashes, flags)
        for number, path in zip(group, flags, strict=True):
            marked[number] = replace(plans[number], duplicates=Duplicates(path))
    return marked
