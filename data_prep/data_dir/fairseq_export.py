"""Data folders as the released code reads them: fairseq's memory-mapped files, with special tokens in place.

The released training (`src-infoxlm/infoxlm/tasks/xlm_align.py` in microsoft/unilm) takes a folder of monolingual blocks and
one of pairs, in each `train.0.bin`, `train.0.idx` and `dict.txt`. Its own tools (`tools/txt2bin.py`, `tools/para2bin.py`)
write blocks as `<s> sentence </s> sentence </s> …` and pairs as `<s> source </s> target </s>`, every pair in both
orders; so does this, without the second `<s>` that they leave before each side. For InfoXLM's contrast
(`data/xlco_dataset.py` there) `tools/para2bin4xlco.py` writes the sides of a pair as items of their own, pair k as items
2k, its source, and 2k + 1, its target; two neighbouring pairs are then joined, side by side.

Layout of the index, little-endian, for N items (fairseq 0.9, `MMapIndexedDataset`):
    magic b"MMIDIDX\\0\\0" · uint64 version 1 · uint8 dtype code 4 (int32) · uint64 N
    int32 sizes (N,) in tokens · int64 pointers (N,) in bytes
"""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.files import publish, remove_abandoned, temporary_name, write_durably
from data_prep.progress import ByteProgress
from data_prep.token_files.block_table import DEFAULT_BLOCK_TOKENS, SPECIAL_TOKENS, chunks_of, cut_blocks
from data_prep.token_files.manifest import TOKENIZER_FOLDER, Manifest
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import INDEX_MAGIC, INDEX_VERSION, INT32_CODE, TOKEN_BYTES, TokenFile
from data_prep.tokenizers.special_ids import BOS, EOS
from data_prep.tokenizers.tokenizer import Tokenizer

HEADER = struct.Struct("<9sQBQ")
ITEMS_AT_ONCE = 4096
POSITIONS = 512  # of the released model
POSITIONS_OF = {"xlco": POSITIONS // 2}
"""Of one item, where that is not all of them: InfoXLM's contrast joins two."""


@dataclass(frozen=True)
class FairseqFolder:
    """What one folder holds: its items, their tokens, and how many are longer than the released model's positions allow."""

    folder: Path
    items: int
    tokens: int
    positions: int
    too_long: int


def export_fairseq(
    data_dir: Path,
    out: Path,
    names: Sequence[str] = (),
    block_tokens: int = DEFAULT_BLOCK_TOKENS,
    with_contrast: bool = False,
) -> list[FairseqFolder]:
    """Write `out/mono` and `out/pair`, each if the data folder has any; items are in the manifest's order.

    Args:
        names: languages and pairs to take; without any, all.
        block_tokens: largest block with its special tokens.
        with_contrast: write `out/xlco` too, the pairs' sides as items of their own, as InfoXLM's contrast reads them.

    Raises:
        ValueError: see `Manifest.load`; a name that the folder does not have, no pairs for the contrast, or a vocabulary that
            fairseq cannot hold.
    """
    if block_tokens <= SPECIAL_TOKENS:
        raise ValueError(f"--block-tokens {block_tokens}: must be above {SPECIAL_TOKENS}; 512 is usual")
    manifest = Manifest.load(data_dir)
    if unknown := [name for name in names if name not in manifest.mono and name not in manifest.pairs]:
        there = ", ".join([*manifest.mono, *manifest.pairs])
        raise ValueError(f"--only {unknown[0]}: {data_dir} has {there}; give one of them")
    dictionary = _dictionary(Tokenizer.load(data_dir / TOKENIZER_FOLDER), data_dir)
    kinds = {"mono": manifest.mono, "pair": manifest.pairs} | ({"xlco": manifest.pairs} if with_contrast else {})
    chosen = {
        kind: [shard for name, shards in listed.items() if not names or name in names for shard in shards]
        for kind, listed in kinds.items()
    }
    if with_contrast and not chosen["xlco"]:
        raise ValueError(
            f"--xlco: {data_dir} has no pairs among what is taken; binarize some by `parallel`, or leave it out"
        )
    done = []
    total = TOKEN_BYTES * sum(shard.tokens for shards in chosen.values() for shard in shards)
    with ByteProgress("exporting", total) as progress:
        for kind, shards in chosen.items():
            if not shards:
                continue
            writer = _Writer(out / kind)
            turns = (False, True) if kind == "pair" else (False,)
            with writer:
                for turned in turns:
                    for shard in shards:
                        for ids_T, lengths_B in _items(shard, block_tokens, turned, apart=kind == "xlco"):
                            writer.add(ids_T, lengths_B)
                        progress.advance(TOKEN_BYTES * shard.tokens // len(turns))
                done.append(writer.close(POSITIONS_OF.get(kind, POSITIONS)))
            remove_abandoned(out / kind / "dict.txt")
            write_durably(out / kind / "dict.txt", dictionary)
    return done


def _dictionary(tokenizer: Tokenizer, data_dir: Path) -> bytes:
    """fairseq's dict.txt: a piece and a count a line, ids from 4 on; its task adds `<mask>` after the last."""
    pieces = [tokenizer.piece(token_id) for token_id in range(4, tokenizer.mask_id)]
    if bad := [piece for piece in pieces if piece == "<mask>" or not piece or {*piece} & {*"\r\n"}]:
        raise ValueError(f"{data_dir / TOKENIZER_FOLDER}: fairseq cannot hold the piece {bad[0]!r}; train without it")
    return "".join(f"{piece} 1\n" for piece in pieces).encode()


def _items(
    shard: Shard, block_tokens: int, turned: bool, apart: bool
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """A shard's items, many at a time: their ids end to end, int32 (T,), and their lengths, int64 (B,).

    turned: pairs with target before source; apart: each side of a pair is an item.
    """
    file = TokenFile(shard.stem)
    file.check_sequences()
    if shard.kind == "pair":
        firsts_I = np.arange(0, len(file) + 1, 2)
        for begin in range(0, len(firsts_I) - 1, ITEMS_AT_ONCE):
            rows_I = firsts_I[begin : begin + ITEMS_AT_ONCE + 1]
            lengths_S = file.lengths[rows_I[0] : rows_I[-1]].astype(np.int64)
            start = int(file.pointers[rows_I[0]]) // TOKEN_BYTES
            tokens_T = file.tokens[start : start + int(lengths_S.sum())]
            if turned:
                tokens_T, lengths_S = _turn(tokens_T, lengths_S)
            yield _with_specials(tokens_T, np.cumsum(lengths_S), np.arange(0, len(lengths_S) + 1, 1 if apart else 2))
        return
    table = file.blocks if file.blocks and file.block_tokens == block_tokens else cut_blocks(file.lengths, block_tokens)
    for begin in range(0, len(table), ITEMS_AT_ONCE):
        blocks = [file.read_block(table, i) for i in range(begin, min(begin + ITEMS_AT_ONCE, len(table)))]
        chunks, sound_B = chunks_of(blocks, block_tokens, TOKEN_BYTES)
        if not sound_B.all():
            raise ValueError(file.damage)
        tokens_T = file.tokens[blocks[0].start : blocks[-1].end]
        yield _with_specials(tokens_T, np.cumsum(chunks.length_C), np.cumsum([0, *chunks.chunks_B]))


def _turn(tokens_T: NDArray[np.int32], lengths_S: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Pairs with target before source."""
    order_S = np.arange(len(lengths_S)) ^ 1
    starts_S = np.cumsum(lengths_S) - lengths_S
    turned_S = lengths_S[order_S]
    place_T = np.repeat(starts_S[order_S] - (np.cumsum(turned_S) - turned_S), turned_S) + np.arange(len(tokens_T))
    return tokens_T[place_T], turned_S


def _with_specials(
    tokens_T: NDArray[np.int32], ends_C: NDArray[np.int64], chunks_B1: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Put `<s>` before each item and `</s>` after each of its chunks.

    ends_C: where chunks end in the tokens; chunks_B1: each item's first chunk, and their number.
    """
    starts_C = np.concatenate([[0], ends_C[:-1]])
    places = np.concatenate([ends_C, starts_C[chunks_B1[:-1]]])
    specials = np.repeat(np.array([EOS, BOS], dtype=np.int32), [len(ends_C), len(chunks_B1) - 1])
    # where a chunk ends and an item begins, the end comes first
    order = np.argsort(places, kind="stable")
    bounds_B1 = np.concatenate([starts_C[chunks_B1[:-1]], ends_C[-1:]])
    return np.insert(tokens_T, places[order], specials[order]), np.diff(bounds_B1) + np.diff(chunks_B1) + 1


class _Writer:
    """Takes items and publishes them as `train.0.bin` and `train.0.idx`; nothing is visible before `close`.

    Used as a context, it leaves nothing behind that was not published.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.bin, self.idx = folder, folder / "train.0.bin", folder / "train.0.idx"
        self.sizes = array("i")
        for path in (self.bin, self.idx):
            remove_abandoned(path)
        self._file = io.FileIO(temporary_name(self.bin), "wb")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for path in (self.bin, self.idx):
            temporary_name(path).unlink(missing_ok=True)

    def add(self, ids_T: NDArray[np.int32], lengths_B: NDArray[np.int64]) -> None:
        left = memoryview(ids_T.astype("<i4", copy=False).tobytes())
        while left:
            left = left[self._file.write(left) :]
        self.sizes.frombytes(lengths_B.astype(np.int32).tobytes())

    def close(self, positions: int) -> FairseqFolder:
        self._file.close()
        sizes_N = np.frombuffer(self.sizes, dtype=np.int32)
        pointers_N = TOKEN_BYTES * (np.cumsum(sizes_N, dtype=np.int64) - sizes_N)
        with open(temporary_name(self.idx), "wb") as file:
            file.write(HEADER.pack(INDEX_MAGIC, INDEX_VERSION, INT32_CODE, len(sizes_N)))
            file.write(sizes_N.astype("<i4", copy=False).tobytes())
            file.write(pointers_N.astype("<i8", copy=False).tobytes())
        publish(self.bin)
        publish(self.idx)
        too_long = int((sizes_N > positions).sum())
        return FairseqFolder(self.folder, len(sizes_N), int(sizes_N.sum(dtype=np.int64)), positions, too_long)
