"""One shard from its piece of text: decode, encode, filter, write the token file, then the commit marker.

Runs inside a worker; knows nothing of other shards, of workers or of the manifest.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.blocks import LONG_LINE, blank_lines, in_step, is_clean, line_ends, unusable
from data_prep.files import canonical_json, write_durably
from data_prep.filters import PairFilters
from data_prep.plan import ShardRange, SourcePlan
from data_prep.readers import parse_tsv, split_lines
from data_prep.spool import TextPiece
from data_prep.token_file import SCHEMA, TokenFileWriter, shard_file
from data_prep.tokenizer import Tokenizer

Pair = tuple[str, str, float | None]

QUARANTINE_FOLDER = "quarantine"
SHOWN_OF_LONG_LINE = 1 << 12


@dataclass(frozen=True)
class ShardJob:
    """One shard's work: its place in the plan, which tells where its text lies, and what its marker will say."""

    data_dir: Path
    plan: SourcePlan
    index: int
    header: dict[str, Any]

    @property
    def stem(self) -> Path:
        """Stem of the shard's files."""
        return self.data_dir / self.plan.stem(self.index)

    @property
    def range(self) -> ShardRange:
        """The shard's part of the source."""
        return self.plan.ranges[self.index]

    @property
    def text(self) -> tuple[TextPiece, ...]:
        """Where its text lies, one piece per source file."""
        return self.plan.text(self.index)


@dataclass(frozen=True)
class ShardResult:
    """What became of a shard: its text's size, its counts, and what was dropped and why."""

    bytes: int
    counts: dict[str, Any]
    dropped: dict[str, int]


@dataclass
class _Tally:
    """What a shard dropped, by reason, and the bad records to set aside."""

    job: ShardJob
    dropped: Counter[str]
    quarantined: list[dict[str, Any]]

    def bad(self, index: int, sides: tuple[bytes, ...]) -> None:
        """Count a bad record once and keep each bad side's raw bytes with the reason; of a long line its beginning."""
        reasons = []
        for file, raw in zip(self.job.plan.files, sides, strict=True):
            if reason := unusable(raw, self.job.plan.settings.columns):
                reasons.append(reason)
                record = {"file": file.name, "line": self.job.range.first_line + index, "reason": reason}
                if reason == LONG_LINE:
                    record["bytes"], raw = len(raw), raw[:SHOWN_OF_LONG_LINE]
                self.quarantined.append({**record, "raw": base64.b64encode(raw).decode()})
        self.dropped[reasons[0]] += 1

    def is_bad(self, index: int, sides: tuple[bytes, ...]) -> bool:
        """Whether a record is bad; if so it is counted and set aside."""
        bad = any(unusable(raw, self.job.plan.settings.columns) for raw in sides)
        if bad:
            self.bad(index, sides)
        return bad


def shard_header(plan: SourcePlan, index: int, tokenizer_sha256: str, sentencepiece_version: str) -> dict[str, Any]:
    """The part of a marker that is known before encoding; a shard whose marker has the same need not be made again."""
    shard = plan.ranges[index]
    files = [
        {"name": file.name, "bytes": file.bytes, "sha256": file.sha256, "start": start, "end": end}
        for file, start, end in zip(plan.files, shard.starts, shard.ends, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "kind": plan.source.kind,
        "languages": list(plan.source.languages),
        "tokenizer_sha256": tokenizer_sha256,
        "sentencepiece": sentencepiece_version,
        "source": {"files": files, "first_line": shard.first_line, "lines": shard.lines},
        "shard": {"index": index, "count": len(plan.ranges), "continues_document": shard.continues_document},
        "settings": plan.settings.record(),
        "settings_sha256": plan.settings.sha256,
    }


def binarize(tokenizer: Tokenizer, job: ShardJob) -> ShardResult:
    """Make and publish one shard; the marker is written last, so a killed run leaves nothing that looks complete.

    A shard all of whose records are dropped publishes a marker with zero counts and no token file.
    """
    writer = TokenFileWriter(job.stem, job.plan.source.kind, job.plan.source.languages, tokenizer.sha256)
    tally = _Tally(job, Counter(), [])
    try:
        if job.plan.source.kind == "mono":
            _add_documents(writer, tokenizer, job, tally)
        else:
            _add_pairs(writer, tokenizer, job, tally)
        files = writer.close()
    except BaseException:
        writer.discard()
        raise
    if tally.quarantined:
        lines = [json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in tally.quarantined]
        write_durably(quarantine_file(job.data_dir, job.plan.stem(job.index)), "".join(lines).encode())
    counts, dropped = _counts(writer), dict(sorted(tally.dropped.items()))
    marker = {**job.header, "counts": counts, "dropped": dropped, "files": files}
    write_durably(shard_file(job.stem, ".json"), canonical_json(marker))
    for piece in job.text:
        piece.discard()
    return ShardResult(job.range.bytes, counts, dropped)


def quarantine_file(data_dir: Path, stem: str) -> Path:
    """Where a shard's bad records are set aside: JSONL with file, line, reason and raw bytes in base64."""
    return data_dir / QUARANTINE_FOLDER / f"{stem}.jsonl"


def _counts(writer: TokenFileWriter) -> dict[str, Any]:
    lengths, modes = np.array(writer.lengths, dtype=np.int64), np.array(writer.modes)
    return {
        "documents": len(writer.documents) - 1,
        "sequences": len(lengths),
        "tokens": int(lengths.sum()),
        "tokens_per_language": {name: int(lengths[modes == mode].sum()) for mode, name in enumerate(writer.languages)},
        "max_length": int(lengths.max(initial=0)),
    }


def _add_documents(writer: TokenFileWriter, tokenizer: Tokenizer, job: ShardJob, tally: _Tally) -> None:
    first = 0
    for block in job.text[0].blocks():
        lines = split_lines(block)
        blank = blank_lines(block, line_ends(block))
        first += len(lines)
        if job.plan.bad_lines and not is_clean(block):
            bad = [tally.is_bad(index, (raw,)) for index, raw in enumerate(lines, start=first - len(lines))]
            lines, blank = list(compress(lines, [not is_bad for is_bad in bad])), blank[np.logical_not(bad)]
        _add_lines(writer, tokenizer, lines, blank, tally)
    writer.end_document()


def _add_lines(
    writer: TokenFileWriter, tokenizer: Tokenizer, lines: list[bytes], blank: NDArray[np.bool_], tally: _Tally
) -> None:
    """Encode usable lines; blank ones end a document."""
    ids_T, lengths = tokenizer.encode_flat(list(compress(lines, (~blank).tobytes())))
    before = len(writer.lengths)
    has_tokens = lengths > 0
    sequences_before = np.concatenate([[0], np.cumsum(has_tokens)])
    kept = int(sequences_before[-1])
    if kept < len(lengths):
        tally.dropped["empty"] += len(lengths) - kept
    writer.add_sequences(ids_T, lengths[has_tokens], np.zeros(kept, dtype=np.int64))
    places = np.flatnonzero(blank)
    writer.end_documents(before + sequences_before[places - np.arange(len(places))])


def _add_pairs(writer: TokenFileWriter, tokenizer: Tokenizer, job: ShardJob, tally: _Tally) -> None:
    filters = job.plan.settings.filters
    assert filters is not None, "pairs are always filtered"
    first = 0
    for texts in in_step([piece.blocks() for piece in job.text]):
        lines = list(zip(*map(split_lines, texts), strict=True))
        kept: list[str] = []
        for source, target, score in _usable_pairs(lines, first, job, tally):
            reason = filters.drop_text(source, target, score)
            if reason:
                tally.dropped[reason] += 1
            else:
                kept += (source, target)
        _add_kept_pairs(writer, *tokenizer.encode_flat(kept), filters, tally)
        first += len(lines)


def _add_kept_pairs(
    writer: TokenFileWriter, ids_T: NDArray[np.int32], lengths: NDArray[np.int64], filters: PairFilters, tally: _Tally
) -> None:
    """Add the pairs whose token counts pass; `lengths` has two a pair."""
    reasons = [filters.drop_tokens(source, target) for source, target in lengths.reshape(-1, 2).tolist()]
    tally.dropped.update(reason for reason in reasons if reason)
    passes = np.repeat([reason is None for reason in reasons], 2).astype(bool)
    before = len(writer.lengths)
    writer.add_sequences(ids_T[np.repeat(passes, lengths)], lengths[passes], np.arange(int(passes.sum())) % 2)
    writer.end_documents(np.arange(before + 2, len(writer.lengths) + 1, 2))


def _usable_pairs(lines: list[tuple[bytes, ...]], first: int, job: ShardJob, tally: _Tally) -> Iterator[Pair]:
    """Source, target and score of the lines that can be used; `first` is the index of the first in the shard."""
    columns = job.plan.settings.columns
    for index, sides in enumerate(lines, start=first):
        if job.plan.bad_lines and tally.is_bad(index, sides):
            continue
        if columns:
            yield parse_tsv(sides[0], columns)
        else:
            yield sides[0].decode(), sides[1].decode(), None
