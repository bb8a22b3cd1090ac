"""One shard from its piece of text: decode, encode, filter, write the token file, then the commit marker.

Runs inside a worker; knows nothing of other shards, of workers or of the manifest.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import canonical_json, sha256_of_file, write_durably
from data_prep.plan import ShardRange, SourcePlan
from data_prep.readers import BadRecordError, decode_line, documents, parse_tsv, split_lines
from data_prep.token_file import SCHEMA, TokenFileWriter, shard_file
from data_prep.tokenizer import Tokenizer

QUARANTINE_FOLDER = "quarantine"


@dataclass(frozen=True)
class ShardJob:
    """One shard's work: its place in the plan, its text (one piece per source file), and what its marker will say."""

    data_dir: Path
    plan: SourcePlan
    index: int
    text: tuple[bytes, ...]
    header: dict[str, Any]

    @property
    def stem(self) -> Path:
        """Stem of the shard's files."""
        return self.data_dir / self.plan.stem(self.index)

    @property
    def range(self) -> ShardRange:
        """The shard's part of the source."""
        return self.plan.ranges[self.index]


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
        """Count a bad record once and keep each side's raw bytes with the reason."""
        columns = self.job.plan.settings.columns
        reasons = []
        for file, raw in zip(self.job.plan.files, sides, strict=True):
            try:
                _ = parse_tsv(raw, columns) if columns else decode_line(raw)
            except BadRecordError as error:
                reasons.append(str(error))
                line = self.job.range.first_line + index
                encoded = base64.b64encode(raw).decode()
                self.quarantined.append({"file": file.name, "line": line, "reason": reasons[-1], "raw": encoded})
        self.dropped[reasons[0]] += 1


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
    if job.plan.source.kind == "mono":
        _add_documents(writer, tokenizer, job, tally)
    else:
        _add_pairs(writer, tokenizer, job, tally)
    files = {}
    if writer.close():
        for suffix in ("bin", "idx"):
            path = shard_file(job.stem, f".{suffix}")
            files[suffix] = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
    if tally.quarantined:
        lines = [json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in tally.quarantined]
        write_durably(quarantine_file(job.data_dir, job.plan.stem(job.index)), "".join(lines).encode())
    counts, dropped = _counts(writer), dict(sorted(tally.dropped.items()))
    marker = {**job.header, "counts": counts, "dropped": dropped, "files": files}
    write_durably(shard_file(job.stem, ".json"), canonical_json(marker))
    return ShardResult(job.range.bytes, counts, dropped)


def quarantine_file(data_dir: Path, stem: str) -> Path:
    """Where a shard's bad records are set aside: JSONL with file, line, reason and raw bytes in base64."""
    return data_dir / QUARANTINE_FOLDER / f"{stem}.jsonl"


def _counts(writer: TokenFileWriter) -> dict[str, Any]:
    lengths, modes = np.array(writer.lengths, dtype=np.int64), np.array(writer.modes, dtype=np.int64)
    return {
        "documents": len(writer.documents) - 1,
        "sequences": len(lengths),
        "tokens": int(lengths.sum()),
        "tokens_per_language": {name: int(lengths[modes == mode].sum()) for mode, name in enumerate(writer.languages)},
        "max_length": int(lengths.max(initial=0)),
    }


def _add_documents(writer: TokenFileWriter, tokenizer: Tokenizer, job: ShardJob, tally: _Tally) -> None:
    texts, sizes = [], []
    for document in documents(split_lines(job.text[0])):
        kept = 0
        for index, raw in document:
            try:
                texts.append(decode_line(raw))
                kept += 1
            except BadRecordError:
                tally.bad(index, (raw,))
        sizes.append(kept)
    ids_T, lengths = tokenizer.encode_flat(texts)
    ends = iter(np.cumsum(lengths).tolist())
    start = 0
    for size in sizes:
        for _ in range(size):
            end = next(ends)
            if end > start:
                writer.add_sequence(ids_T[start:end], mode=0)
            else:
                tally.dropped["empty"] += 1
            start = end
        writer.end_document()


def _add_pairs(writer: TokenFileWriter, tokenizer: Tokenizer, job: ShardJob, tally: _Tally) -> None:
    filters = job.plan.settings.filters
    assert filters is not None, "pairs are always filtered"
    texts: list[str] = []
    for source, target, score in _pairs(job, tally):
        reason = filters.drop_text(source, target, score)
        if reason:
            tally.dropped[reason] += 1
        else:
            texts += (source, target)
    ids_T, lengths = tokenizer.encode_flat(texts)
    starts = [0, *np.cumsum(lengths).tolist()]
    for first in range(0, len(texts), 2):
        begin, middle, end = starts[first : first + 3]
        reason = filters.drop_tokens(middle - begin, end - middle)
        if reason:
            tally.dropped[reason] += 1
            continue
        writer.add_sequence(ids_T[begin:middle], mode=0)
        writer.add_sequence(ids_T[middle:end], mode=1)
        writer.end_document()


def _pairs(job: ShardJob, tally: _Tally) -> Iterator[tuple[str, str, float | None]]:
    columns = job.plan.settings.columns
    for index, sides in enumerate(zip(*map(split_lines, job.text), strict=True)):
        try:
            if columns:
                yield parse_tsv(sides[0], columns)
            else:
                yield decode_line(sides[0]), decode_line(sides[1]), None
        except BadRecordError:
            tally.bad(index, sides)
