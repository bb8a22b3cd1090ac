"""One shard from its piece of text: decode, encode, filter, write the token file, then the commit marker.

Runs inside a worker; knows nothing of other shards, of workers or of the manifest.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.filters.language_id import LanguageFilter
from data_prep.plan.source_plan import ShardRange, SourcePlan
from data_prep.text.blocks import LONG_LINE, blank_lines, in_step, is_clean, line_ends, unusable
from data_prep.text.readers import is_blank, is_skipped, parse_tsv, raw_record, split_lines
from data_prep.text.spool import TextPiece
from data_prep.text.word_links import POSSIBLE, parse_links
from data_prep.token_files.link_file import LinkFileWriter
from data_prep.token_files.marker import write_marker
from data_prep.token_files.set_aside import dropped_file, quarantine_file, write_records
from data_prep.token_files.shard import LINKS
from data_prep.token_files.token_file import LINKS_SUFFIX, SCHEMA, Kind, TokenFileWriter, shard_file
from data_prep.tokenizers.tokenizer import Tokenizer
from data_prep.tokenizers.word_places import words_of_tokens

IndexedPair = tuple[int, str, str, float | None]

WITHOUT_TOKENS = "links_without_tokens"
"""The reason under which links are counted one of whose words normalises to nothing."""
SAMPLES_PER_REASON = 3
SAMPLE_CHARACTERS = 300
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
    """What became of a shard: its kind, its text's size, its counts, and what was dropped and why."""

    kind: Kind
    bytes: int
    counts: dict[str, Any]
    dropped: dict[str, int]


@dataclass
class _Tally:
    """What a shard dropped, by reason, with the first few of each, and the bad records to set aside."""

    job: ShardJob
    dropped: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[dict[str, Any]] = field(default_factory=list)

    def drop(self, reason: str, index: int, *texts: str) -> None:
        """Count what a filter dropped, and keep its text if it is one of the shard's first of this reason."""
        self.dropped[reason] += 1
        if self.dropped[reason] <= SAMPLES_PER_REASON:
            shown = [text[:SAMPLE_CHARACTERS] for text in texts]
            self.samples.append({"reason": reason, "line": self.job.range.first_line + index, "text": shown})

    def is_duplicate(self) -> NDArray[np.bool_]:
        """Which of the shard's lines repeat earlier ones, bool (lines,)."""
        duplicates, shard = self.job.plan.duplicates, self.job.range
        return duplicates.flags(shard.first_line, shard.lines) if duplicates else np.zeros(shard.lines, dtype=np.bool_)

    def language_filters(self) -> list[LanguageFilter]:
        """One per language, none where languages are not judged."""
        filters = self.job.plan.settings.filters
        if filters is None or filters.min_language_probability is None:
            return []
        return [
            LanguageFilter(language, filters.min_language_probability) for language in self.job.plan.source.languages
        ]

    def bad(self, index: int, sides: tuple[bytes, ...]) -> None:
        """Count a bad record once and keep each bad side's raw bytes with the reason; of a long line its beginning.

        A skipped record is counted only.
        """
        reasons = []
        for file, raw in zip(self.job.plan.files, sides, strict=True):
            if reason := unusable(raw, self.job.plan.settings.columns):
                reasons.append(reason)
                if is_skipped(raw):
                    continue
                record = {"file": file.name, "line": self.job.range.first_line + index, "reason": reason}
                if reason == LONG_LINE:
                    record["bytes"], raw = len(raw), raw[:SHOWN_OF_LONG_LINE]
                self.quarantined.append({**record, "raw": base64.b64encode(raw_record(raw)).decode()})
        self.dropped[reasons[0]] += 1

    def is_bad(self, index: int, sides: tuple[bytes, ...]) -> bool:
        """Whether a record is bad; if so it is counted and set aside."""
        bad = any(unusable(raw, self.job.plan.settings.columns) for raw in sides)
        if bad:
            self.bad(index, sides)
        return bad


def shard_header(plan: SourcePlan, index: int, tokenizer_sha256: str) -> dict[str, Any]:
    """The part of a marker that is known before encoding; a shard whose marker has the same need not be made again."""
    shard = plan.ranges[index]
    files = [
        {"name": file.name, "bytes": file.bytes, "sha256": file.sha256, "start": start, "end": end}
        for file, start, end in zip(plan.files, shard.starts, shard.ends, strict=True)
    ]
    repeats = {}
    if plan.duplicates:
        # which lines repeat earlier ones depends on the run's other sources, so it is part of what the shard is made from
        repeats = {"duplicates_sha256": plan.duplicates.digest(shard.first_line, shard.lines)}
    return repeats | {
        "schema": SCHEMA,
        "kind": plan.source.kind,
        "languages": list(plan.source.languages),
        "tokenizer_sha256": tokenizer_sha256,
        "sentencepiece": plan.settings.sentencepiece,
        "source": {"files": files, "first_line": shard.first_line, "lines": shard.lines},
        "shard": {"index": index, "count": len(plan.ranges), "continues_document": shard.continues_document},
        "settings": plan.settings.record(),
        "settings_sha256": plan.settings.sha256,
    }


def binarize(tokenizer: Tokenizer, job: ShardJob) -> ShardResult:
    """Make and publish one shard; the marker is written last, so a killed run leaves nothing that looks complete.

    A shard all of whose records are dropped publishes a marker with zero counts and no token file.
    """
    block_tokens = job.plan.settings.block_tokens if job.plan.source.kind == "mono" else 0
    writer = TokenFileWriter(job.stem, job.plan.source.kind, job.plan.source.languages, tokenizer.sha256, block_tokens)
    links = LinkFileWriter(shard_file(job.stem, LINKS_SUFFIX)) if job.plan.source.has_links else None
    tally = _Tally(job)
    try:
        if job.plan.source.kind == "mono":
            _add_documents(writer, tokenizer, job, tally)
        else:
            _add_pairs(writer, links, tokenizer, job, tally)
        files = writer.close()
        if links is not None and files:
            files[LINKS] = links.close()
    except BaseException:
        writer.discard()
        raise
    finally:
        if links is not None:
            links.discard()
    stem = job.plan.stem(job.index)
    write_records(quarantine_file(job.data_dir, stem), tally.quarantined)
    write_records(dropped_file(job.data_dir, stem), tally.samples)
    counts, dropped = _counts(writer), dict(sorted(tally.dropped.items()))
    if links is not None:
        counts["links"] = links.links
    # not part of what makes a shard: it only tells that another source is the same text
    texts = [file.text_sha256 for file in job.plan.files]
    marker = {**job.header, "counts": counts, "dropped": dropped, "files": files, "text_sha256": texts}
    write_marker(shard_file(job.stem, ".json"), marker)
    for piece in job.text:
        piece.discard()
    return ShardResult(job.plan.source.kind, job.range.bytes, counts, dropped)


def _counts(writer: TokenFileWriter) -> dict[str, Any]:
    lengths, modes = np.array(writer.lengths, dtype=np.int64), np.array(writer.modes)
    return {
        "documents": len(writer.documents) - 1,
        "sequences": len(lengths),
        "tokens": int(lengths.sum()),
        "tokens_per_language": {name: int(lengths[modes == mode].sum()) for mode, name in enumerate(writer.languages)},
        "max_length": int(lengths.max(initial=0)),
        "block_tokens": writer.block_tokens,
        "blocks": writer.blocks,
    }


def _add_documents(writer: TokenFileWriter, tokenizer: Tokenizer, job: ShardJob, tally: _Tally) -> None:
    first = 0
    is_dropped = _line_filter(job, tally)
    for block in job.text[0].blocks():
        lines = split_lines(block)
        blank = blank_lines(block, line_ends(block))
        first += len(lines)
        if is_dropped or (job.plan.bad_lines and not is_clean(block)):
            numbered = enumerate(lines, start=first - len(lines))
            kept = [not (tally.is_bad(i, (raw,)) or (is_dropped and is_dropped(i, raw))) for i, raw in numbered]
            lines, blank = list(compress(lines, kept)), blank[np.array(kept)]
        _add_lines(writer, tokenizer, lines, blank, tally)
    writer.end_document()


def _line_filter(job: ShardJob, tally: _Tally) -> Callable[[int, bytes], bool] | None:
    """Whether to drop a usable line, by its index and bytes, which then is counted; None where nothing is filtered."""
    filters = job.plan.settings.filters
    if filters is None or filters == MonoFilters():
        return None
    assert isinstance(filters, MonoFilters), "lines are cleaned, pairs are filtered"
    is_duplicate, languages = tally.is_duplicate(), tally.language_filters()

    def is_dropped(index: int, raw: bytes) -> bool:
        if is_blank(raw):
            return False
        text = raw.decode()
        reason = filters.drop_text(text)
        if not reason and is_duplicate[index]:
            reason = "duplicate"
        if not reason and languages and languages[0].is_other(text):
            reason = "language"
        if reason:
            tally.drop(reason, index, text)
        return reason is not None

    return is_dropped


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


def _add_pairs(
    writer: TokenFileWriter, links: LinkFileWriter | None, tokenizer: Tokenizer, job: ShardJob, tally: _Tally
) -> None:
    filters = job.plan.settings.filters
    assert isinstance(filters, PairFilters), "pairs are always filtered"
    is_duplicate, languages = tally.is_duplicate(), tally.language_filters()
    first = 0
    for texts in in_step([piece.blocks() for piece in job.text]):
        lines = list(zip(*map(split_lines, texts), strict=True))
        kept: list[str] = []
        indices: list[int] = []
        for index, source, target, score in _usable_pairs(lines, first, job, tally):
            reason = filters.drop_text(source, target, score)
            if not reason and is_duplicate[index]:
                reason = "duplicate"
            if not reason and languages and any(map(LanguageFilter.is_other, languages, (source, target))):
                reason = "language"
            if reason:
                tally.drop(reason, index, source, target)
            else:
                kept += (source, target)
                indices.append(index)
        passes = _add_kept_pairs(writer, tokenizer, kept, indices, filters, tally)
        if links is not None:
            linked = [lines[index - first] for index in compress(indices, passes)]
            _add_links(links, tokenizer, linked, tally)
        first += len(lines)


def _add_kept_pairs(
    writer: TokenFileWriter,
    tokenizer: Tokenizer,
    texts: list[str],
    indices: list[int],
    filters: PairFilters,
    tally: _Tally,
) -> list[bool]:
    """Encode and add the pairs whose token counts pass, and say which do; `texts` has two a pair, `indices` one."""
    ids_T, lengths = tokenizer.encode_flat(texts)
    reasons = [filters.drop_tokens(source, target) for source, target in lengths.reshape(-1, 2).tolist()]
    for pair, reason in enumerate(reasons):
        if reason:
            tally.drop(reason, indices[pair], *texts[2 * pair : 2 * pair + 2])
    passes = np.repeat([reason is None for reason in reasons], 2).astype(bool)
    before = len(writer.lengths)
    writer.add_sequences(ids_T[np.repeat(passes, lengths)], lengths[passes], np.arange(int(passes.sum())) % 2)
    writer.end_documents(np.arange(before + 2, len(writer.lengths) + 1, 2))
    return [reason is None for reason in reasons]


def _add_links(writer: LinkFileWriter, tokenizer: Tokenizer, pairs: list[tuple[bytes, ...]], tally: _Tally) -> None:
    """Add the links of pairs whose tokens were added: those of two words are those of all their tokens.

    pairs: source, target and links of each, as they stand in the files.
    """
    words = words_of_tokens(tokenizer, [text for source, target, _ in pairs for text in (source, target)])
    for (_, _, raw), source_M, target_N in zip(pairs, words[0::2], words[1::2], strict=True):
        of_words, possible = parse_links(raw)
        if possible:
            tally.dropped[POSSIBLE] += possible
        links_MN = np.zeros((len(source_M), len(target_N)), dtype=np.bool_)
        for source, target in of_words:
            of_tokens = np.ix_(source_M == source, target_N == target)
            if not links_MN[of_tokens].size:
                tally.dropped[WITHOUT_TOKENS] += 1
            links_MN[of_tokens] = True
        writer.add(np.argwhere(links_MN))


def _usable_pairs(lines: list[tuple[bytes, ...]], first: int, job: ShardJob, tally: _Tally) -> Iterator[IndexedPair]:
    """Index in the shard, source, target and score of the lines that can be used; `first` is the first one's index."""
    columns = job.plan.settings.columns
    for index, sides in enumerate(lines, start=first):
        if job.plan.bad_lines and tally.is_bad(index, sides):
            continue
        if columns:
            yield (index, *parse_tsv(sides[0], columns))
        else:
            yield index, sides[0].decode(), sides[1].decode(), None
