"""Translation memories, archives and records with the same few pairs, and what data_prep made of them."""

import json
import lzma
import zipfile
from itertools import pairwise
from pathlib import Path

import pyarrow
from pyarrow import parquet

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import Tokenizer

PAIRS = [("the cat sees", "a dog"), ("big\nred\thouse", "small tree"), ("é 日本", "ß 語"), ("river on", "old bird")]


def documents_of(data_dir: Path, tokenizer: Tokenizer) -> list[list[str]]:
    """Every document of a folder's only shard, decoded."""
    (shard,) = Manifest.load(data_dir).shards
    tokens = TokenFile(shard.stem)
    texts = [tokenizer.decode(tokens.read_sequence(i)) for i in range(len(tokens))]
    ends = tokens.documents.tolist()
    return [texts[start:end] for start, end in pairwise(ends)]


def expected_pairs() -> list[list[str]]:
    return [[" ".join(side.split()) for side in pair] for pair in PAIRS]


def write_tmx(path: Path, units: list[dict[str, str]], head: str = "") -> Path:
    """A TMX file of units, each language → the XML inside its <seg>."""
    body = "".join(
        "<tu>" + "".join(f'<tuv xml:lang="{lang}"><seg>{seg}</seg></tuv>' for lang, seg in unit.items()) + "</tu>\n"
        for unit in units
    )
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<tmx version="1.4"><header/><body>{body}</body></tmx>'
    )
    return path


def write_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def write_jsonl(path: Path, records: list[object]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(lzma.compress(text) if path.suffix == ".xz" else text)
    return path


def make_pairs(kind: str, folder: Path) -> list[object]:
    """The arguments that read `PAIRS` from a file of this kind."""
    records = [{"translation": {"en": source, "de": target}} for source, target in PAIRS]
    fields = ["--fields", "translation.en,translation.de"]
    if kind == "zip":
        sides = ["".join(" ".join(pair[side].split()) + "\n" for pair in PAIRS) for side in (0, 1)]
        return [write_zip(folder / "de-en.txt.zip", {"README": "x", "OS.de-en.de": sides[1], "OS.de-en.en": sides[0]})]
    if kind == "tmx":
        return [write_tmx(folder / "m.tmx", [{"en-US": source, "de": target} for source, target in PAIRS])]
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), folder / "p.parquet", row_group_size=2)
        return [folder / "p.parquet", *fields]
    if kind == "dataset":
        (folder / "set").mkdir()
        write_jsonl(folder / "set" / "train.jsonl", records)
        return [folder / "set", "--format", "dataset", *fields]
    return [write_jsonl(folder / kind, records), *fields]
