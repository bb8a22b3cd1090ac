"""What `inspect` shows of a data folder: sums, a table of what was dropped, samples of text, a picture.

Reads the manifest, token files and the sidecars of dropped records; changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from data_prep.files import output_place
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.set_aside import dropped_file
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import Tokenizer

PICTURE_SEQUENCES = 100_000  # lengths that are read per language; a picture needs no more
LENGTH_BINS = 60
TOOK_PART = "kept"


def summary(manifest: Manifest) -> list[dict[str, Any]]:
    """One row per language and pair: sums over its shards, and what its sources dropped."""
    groups: dict[tuple[str, str], list[Shard]] = {}
    dropped: dict[tuple[str, str], Counter[str]] = {}
    for source in manifest.sources:
        group = (source["kind"], "-".join(source["languages"]))
        groups.setdefault(group, [])
        dropped.setdefault(group, Counter()).update(source["dropped"])
    for shard in manifest.shards:
        groups[shard.kind, shard.key].append(shard)
    return [
        {
            "kind": kind,
            "key": key,
            "documents": sum(shard.documents for shard in shards),
            "sequences": sum(shard.sequences for shard in shards),
            "tokens": sum(shard.tokens for shard in shards),
            "max_length": max((shard.max_length for shard in shards), default=0),
            "shards": len(shards),
            "dropped": dict(sorted(dropped[kind, key].items())),
        }
        for (kind, key), shards in sorted(groups.items())
    ]


def summary_table(manifest: Manifest, rows: list[dict[str, Any]]) -> Table:
    """`summary` as a table."""
    table = Table(title=f"{manifest.data_dir}, vocabulary {manifest.vocab_size:,}")
    for name in ("data", "documents or pairs", "sentences", "tokens", "longest", "shards"):
        table.add_column(name, justify="left" if name == "data" else "right", no_wrap=True)
    table.add_column("dropped")
    for row in rows:
        numbers = [f"{row[name]:,}" for name in ("documents", "sequences", "tokens", "max_length", "shards")]
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items())
        table.add_row(row["key"], *numbers, dropped)
    return table


def drop_table(manifest: Manifest) -> Table:
    """A row per source, a column per filter or fault that dropped anything."""
    reasons = sorted({reason for source in manifest.sources for reason in source["dropped"]})
    table = Table(title="dropped, by source and reason")
    table.add_column("data", no_wrap=True)
    table.add_column("source", overflow="fold")
    for name in ("lines", *reasons):
        table.add_column(name, justify="right", no_wrap=True)
    for source in manifest.sources:
        counts = [f"{source['dropped'].get(reason, 0):,}" for reason in reasons]
        name = " + ".join(file["name"] for file in source["files"])
        table.add_row("-".join(source["languages"]), name, f"{source['lines']:,}", *counts)
    return table


def samples(manifest: Manifest, count: int) -> list[dict[str, Any]]:
    """Texts of each language and pair: `count` that were kept, decoded, and as many that each filter dropped.

    The same folder gives the same samples: those kept are evenly spaced, those dropped are the first that are on record.
    """
    tokenizer = Tokenizer.load(manifest.tokenizer_dir)
    found = []
    for kind in (manifest.mono, manifest.pairs):
        for key, shards in kind.items():
            found += [{"data": key, "why": TOOK_PART, "text": text} for text in _kept(shards, tokenizer, count)]
    for data, reason, text in _dropped(manifest, count):
        found.append({"data": data, "why": f"dropped, {reason}", "text": text})
    return sorted(found, key=lambda sample: str(sample["data"]))


def _kept(shards: list[Shard], tokenizer: Tokenizer, count: int) -> list[list[str]]:
    """Sentences, or both sides of pairs, at even distances over all shards."""
    documents = np.cumsum([0] + [shard.documents for shard in shards])
    chosen = np.unique(np.linspace(0, documents[-1] - 1, count).astype(np.int64))
    texts = []
    for number in chosen.tolist():
        index = int(np.searchsorted(documents, number, side="right")) - 1
        tokens = TokenFile(shards[index].stem)
        first = int(tokens.documents[number - documents[index]])
        sides = 2 if tokens.kind == "pair" else 1
        texts.append([tokenizer.decode(tokens.read_sequence(first + side)) for side in range(sides)])
    return texts


def _dropped(manifest: Manifest, count: int) -> list[tuple[str, str, list[str]]]:
    """Data, reason and text of dropped records, at most `count` per data and reason."""
    found, taken = [], Counter[tuple[str, str]]()
    for source in manifest.sources:
        data = "-".join(source["languages"])
        for path in sorted(
            dropped_file(manifest.data_dir, source["stem"]).parent.glob(f"{Path(source['stem']).name}-*")
        ):
            for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
                record = json.loads(line)
                taken[data, record["reason"]] += 1
                if taken[data, record["reason"]] <= count:
                    found.append((data, record["reason"], record["text"]))
    return found


def draw(manifest: Manifest, path: Path) -> None:
    """Draw tokens per language, and how long sentences are in each, into a PNG.

    Raises:
        ValueError: the folder holds no shard.
    """
    lengths, tokens = _lengths_and_tokens(manifest)
    if not tokens:
        raise ValueError(f"{manifest.data_dir}: holds no shard to draw; binarize something first")
    from matplotlib.figure import Figure

    languages = sorted(tokens, key=lambda language: -tokens[language])
    figure = Figure(figsize=(12, 1.5 + 0.28 * len(languages)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(languages, [tokens[language] for language in languages], color="#4c72b0")
    left.set(xscale="log", xlabel="tokens", title="tokens per language")
    left.invert_yaxis()
    longest = max(int(values.max()) for values in lengths.values())
    edges = np.unique(np.geomspace(1, longest + 1, LENGTH_BINS).astype(np.int64))
    shares = [np.histogram(lengths[language], edges)[0] / len(lengths[language]) for language in languages]
    rows = np.arange(len(languages) + 1) - 0.5
    mesh = right.pcolormesh(edges, rows, np.array(shares), cmap="Blues")
    right.plot([np.median(lengths[language]) for language in languages], range(len(languages)), "|", color="#c44e52")
    right.set(xscale="log", xlabel="tokens per sentence; red: median", title="sentence lengths")
    figure.colorbar(mesh, ax=right, label="share of sentences")
    with output_place(path) as place:
        figure.savefig(place, format="png", dpi=120, metadata={"Software": None})


def _lengths_and_tokens(manifest: Manifest) -> tuple[dict[str, NDArray[np.int32]], Counter[str]]:
    """Per language the lengths of its first sequences, int32, and all its tokens; both sides of pairs count."""
    parts: dict[str, list[NDArray[np.int32]]] = defaultdict(list)
    tokens, read = Counter[str](), Counter[str]()
    for shard in manifest.shards:
        opened = TokenFile(shard.stem)
        for mode, language in enumerate(opened.languages):
            of_language = opened.lengths[opened.modes == mode]
            tokens[language] += int(of_language.sum())
            wanted = of_language[: max(0, PICTURE_SEQUENCES - read[language])]
            parts[language].append(np.array(wanted))
            read[language] += len(wanted)
    return {language: np.concatenate(part) for language, part in parts.items()}, tokens
