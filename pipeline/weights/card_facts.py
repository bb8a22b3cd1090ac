"""What a run's folder and its token files still tell for a model card: the data, and what validation has measured.

Knows manifests and metrics; nothing of weights. What is gone, moved or made anew is not told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.shard import Shard
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.run_folder import read_metrics

AER, RETRIEVAL = "AER", "sentence retrieval"
_MEASURES = {"aer": (AER, min), "retrieval": (RETRIEVAL, max)}


@dataclass(frozen=True)
class RunFacts:
    """None and empty: nothing is known."""

    data: str | None = None
    """Languages and their tokens, in words."""
    measured_at: int = 0
    """The step of the validation, the checkpoint's own or the last before it."""
    measured_on: str = ""
    measures: list[tuple[str, int, float]] = field(default_factory=list)
    """What, at which layer, from 0 to 1: each measure's best layer."""


def run_facts(info: CheckpointInfo | None, place: Path) -> RunFacts:
    """Of the checkpoint that was found in `place`, a run's folder or a checkpoint's; None: of no run."""
    if info is None:
        return RunFacts()
    step, validation = _validation_of(info, place)
    settings, measures = info.config.get("validation") or {}, _measures(validation)
    on = {
        AER: f"{settings.get('gold_pairs', '?')} pairs of each gold alignment",
        RETRIEVAL: f"{settings.get('retrieval_sentences', '?')} sentences of each pair of languages",
    }
    taken = [words for start, words in on.items() if any(what.startswith(start) for what, _, _ in measures)]
    return RunFacts(_data_of(info), step, f"on at most {' and '.join(taken)}", measures)


def _data_of(info: CheckpointInfo) -> str | None:
    data = checkpoint.data_of(info)
    if data is None:
        return None
    with suppress(ValueError, OSError):
        manifest = Manifest.read(data)
        if manifest.digest() == info.data_digest:
            kinds = {"monolingual": manifest.mono, "parallel": manifest.pairs}
            return "; ".join(f"{kind}: {_languages(shards)}" for kind, shards in kinds.items() if shards)
    return None


def _languages(shards: Mapping[str, Sequence[Shard]]) -> str:
    tokens = {name: sum(shard.tokens for shard in of_name) for name, of_name in sorted(shards.items())}
    return ", ".join(f"{name} ({count:,} tokens)" for name, count in tokens.items())


def _validation_of(info: CheckpointInfo, place: Path) -> tuple[int, dict[str, Any]]:
    """The last validation of a run up to the checkpoint's step."""
    for run in (place, checkpoint.run_of(place)):
        with suppress(ValueError):
            lines = read_metrics(run).kinds.get("validation", {})
            done = [step for step in lines if step <= info.step]
            return (max(done), lines[max(done)]) if done else (0, {})
    return 0, {}


def _measures(validation: dict[str, Any]) -> list[tuple[str, int, float]]:
    found = []
    for key, layers in validation.items():
        measure, _, name = key.partition("_by_layer/")
        if measure in _MEASURES and name and isinstance(layers, list) and layers:
            words, best = _MEASURES[measure]
            value = best(layers)
            found.append((f"{words}, {name}", layers.index(value), value))
    return found
