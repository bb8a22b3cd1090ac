"""Checks a data folder to the last byte: hashes, offsets, ids, counts, markers and manifest.

Reads everything and changes nothing; what training checks on opening (sizes) is in `manifest` and `token_file`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.files import canonical_json, sha256_of_file
from data_prep.token_files.manifest import MANIFEST_NAME, Manifest, content_of, marker_files, size_problem
from data_prep.token_files.marker import FIELDS, MEND, is_named_by_its_source, read_marker
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import TokenFile, shard_file
from data_prep.tokenizers.tokenizer import read_identity


def find_problems(data_dir: Path) -> Iterator[str]:
    """Every problem of a data folder, one line each that names the file; nothing when all is well."""
    try:
        manifest = Manifest.read(data_dir)
        tokenizer_sha256, vocab_size = read_identity(manifest.tokenizer_dir)
    except ValueError as error:
        yield str(error)
        return
    if (tokenizer_sha256, vocab_size) != (manifest.tokenizer_sha256, manifest.vocab_size):
        yield f"{manifest.tokenizer_dir}: sha256 {tokenizer_sha256}, the manifest says {manifest.tokenizer_sha256}"
    shard_problems = [problem for shard in manifest.shards for problem in _shard_problems(shard, manifest)]
    yield from shard_problems
    of_markers = [problem for path in marker_files(data_dir) for problem in marker_problems(path)]
    yield from of_markers
    try:
        current = canonical_json(content_of(data_dir)) == (data_dir / MANIFEST_NAME).read_bytes()
    except (ValueError, KeyError, TypeError) as error:
        # a shard or a marker told of above makes the markers unusable too: once is enough
        if not shard_problems and not of_markers:
            yield f"{data_dir}: unusable marker ({error})"
        return
    if not current:
        yield f"{data_dir / MANIFEST_NAME}: not what the shards' markers say; {MEND}"


def marker_problems(path: Path) -> Iterator[str]:
    """What is wrong with a shard's marker, one line; nothing when all is well."""
    try:
        marker, raw = read_marker(path), path.read_bytes()
    except FileNotFoundError:
        return  # a run that goes on makes its shard again
    except ValueError as error:
        yield str(error)
        return
    if canonical_json(json.loads(raw)) != raw or not (marker.keys() <= FIELDS):
        yield f"{path}: content is not what was written; {MEND}"
    elif not is_named_by_its_source(path, marker):
        yield f"{path}: its name is not that of the source and settings in it; {MEND}"


def _shard_problems(shard: Shard, manifest: Manifest) -> Iterator[str]:
    problem = size_problem(shard.stem, shard.bytes)
    if problem:
        yield f"{problem}; {MEND}"
        return
    damaged = False
    for suffix, sha256 in shard.sha256.items():
        path = shard_file(shard.stem, f".{suffix}")
        if sha256_of_file(path) != sha256:
            damaged = True
            yield f"{path}: content is not what was written (sha256); {MEND}"
    if damaged:
        return
    try:
        tokens = TokenFile(shard.stem)
        links = tokens.links if shard.has_links else None
    except ValueError as error:
        yield str(error)
        return
    yield from tokens.problems(manifest.vocab_size)
    if links is not None:
        yield from links.problems(tokens.lengths)
    written = (tokens.kind, tokens.languages, tokens.tokenizer_sha256)
    if written != (shard.kind, shard.languages, manifest.tokenizer_sha256):
        yield f"{shard_file(shard.stem, '.idx')}: kind, languages or tokenizer differ from the manifest's; {MEND}"
    blocks = (tokens.block_tokens, len(tokens.blocks) if tokens.blocks else 0)
    counts = (len(tokens.documents) - 1, len(tokens), len(tokens.tokens), int(tokens.lengths.max()), *blocks)
    recorded = (shard.documents, shard.sequences, shard.tokens, shard.max_length, shard.block_tokens, shard.blocks)
    if counts != recorded:
        yield f"{shard_file(shard.stem, '.idx')}: counts {counts} differ from the manifest's; {MEND}"
