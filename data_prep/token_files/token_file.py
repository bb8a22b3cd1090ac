"""One shard on disk: token ids in `{stem}.bin`, Megatron's index plus our trailer in `{stem}.idx`; writer and reader.

Knows bytes and offsets only: nothing of text, of the tokenizer, or of which shards belong together (see `manifest`).

Layout of the index, little-endian, no padding, S sequences in D documents:
    magic b"MMIDIDX\\0\\0" · uint64 version 1 · uint8 dtype code 4 (int32) · uint64 S · uint64 D+1
    int32 lengths (S,) in tokens · int64 pointers (S,) in bytes · int64 documents (D+1,) in sequences · int8 modes (S,)
    trailer: magic b"XLMALIGN" · uint64 length · JSON with schema, kind, languages and the tokenizer's sha256; with
    block_tokens in it also the number of blocks B, and their table (see `block_table`): int64 (B+1, 2)
Megatron-LM reads the first part and ignores the trailer. The mode of a sequence is the index of its language.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from array import array
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_prep.files import publish, temporary_name
from data_prep.token_files.block_table import SPECIAL_TOKENS, Block, BlockTable, cut_blocks
from data_prep.token_files.link_file import LinkFile
from data_prep.token_files.mapped import MEND, VERIFY, mapped
from data_prep.tokenizers.special_ids import UNK

Kind = Literal["mono", "pair"]
FileRecord = dict[str, int | str]  # "bytes" and "sha256" of a file, as markers have them

SCHEMA = 1
INDEX_MAGIC = b"MMIDIDX\x00\x00"
INDEX_VERSION = 1
INT32_CODE = 4
HEADER = struct.Struct("<9sQBQQ")
TRAILER_MAGIC = b"XLMALIGN"
TRAILER_HEADER = struct.Struct("<8sQ")
TOKEN_BYTES = 4
BLOCK_ROW_BYTES = 16
LINKS_SUFFIX = ".links"


def shard_file(stem: Path, suffix: str) -> Path:
    """The shard's file with this suffix (".bin", ".idx", ".links" or ".json"); stems may contain dots."""
    return stem.with_name(stem.name + suffix)


class TokenFileWriter:
    """Takes sequences and documents and publishes them as `{stem}.bin` and `{stem}.idx`.

    A document is closed by `end_document`; one without sequences does not count. Ids go to disk as they come, so that
    only lengths and boundaries are held. Nothing is visible under the real names before `close`, and a shard without
    tokens is never published.
    """

    lengths: array[int]
    """Tokens of each sequence so far."""
    modes: array[int]
    """Language index of each."""
    documents: array[int]
    """Documents so far end before these sequences; begins with 0."""

    def __init__(
        self, stem: Path, kind: Kind, languages: Sequence[str], tokenizer_sha256: str, block_tokens: int = 0
    ) -> None:
        self.stem, self.block_tokens = stem, block_tokens
        self.languages = tuple(languages)
        self.trailer = {
            "schema": SCHEMA,
            "kind": kind,
            "languages": list(languages),
            "tokenizer_sha256": tokenizer_sha256,
        }
        self.lengths = array("i")
        self.modes = array("b")
        self.documents = array("q", [0])
        self.blocks = 0  # in the table, known when the index is written
        self._tokens: io.FileIO | None = None
        self._digest = hashlib.sha256()

    def add_sequences(self, ids_T: NDArray[np.int32], lengths_S: NDArray[np.int64], modes_S: NDArray[np.int64]) -> None:
        """Append sequences whose int32 ids lie end to end, each of a length ≥ 1, in the languages that modes index."""
        assert (ids_T.dtype, ids_T.ndim) == (np.int32, 1), "sequences are int32 ids"
        assert int(lengths_S.sum()) == len(ids_T), "lengths must add up to the ids"
        if not len(lengths_S):
            return
        assert int(lengths_S.min()) > 0, "a sequence has a token"
        assert int(modes_S.min()) >= 0 and int(modes_S.max()) < len(self.languages), "modes must index the languages"
        self._write(memoryview(ids_T.astype("<i4", copy=False).tobytes()))
        self.lengths.frombytes(lengths_S.astype(np.int32).tobytes())
        self.modes.frombytes(modes_S.astype(np.int8).tobytes())

    def _write(self, raw: memoryview) -> None:
        if self._tokens is None:
            self.stem.parent.mkdir(parents=True, exist_ok=True)
            self._tokens = io.FileIO(temporary_name(shard_file(self.stem, ".bin")), "wb")
        self._digest.update(raw)
        while raw:
            raw = raw[self._tokens.write(raw) :]

    def end_document(self) -> None:
        """Close the current document, if it has any sequence."""
        self.end_documents(np.array([len(self.lengths)]))

    def end_documents(self, ends_D: NDArray[np.int64]) -> None:
        """Close documents that end before these sequences, in ascending order; those without a sequence do not count."""
        kept_D = ends_D[np.diff(ends_D, prepend=self.documents[-1]) > 0]
        assert not len(kept_D) or kept_D[-1] <= len(self.lengths), "a document ends with a sequence that was added"
        self.documents.frombytes(kept_D.astype(np.int64).tobytes())

    def close(self) -> dict[str, FileRecord]:
        """Publish both files durably: size and sha256 of each by suffix; nothing when there is no sequence."""
        assert self.documents[-1] == len(self.lengths), "the last document was not ended"
        if self._tokens is None:
            return {}
        bin_file, idx_file = shard_file(self.stem, ".bin"), shard_file(self.stem, ".idx")
        size = self._tokens.tell()
        self._tokens.close()
        index = self._index()
        temporary_name(idx_file).write_bytes(index)
        publish(bin_file)
        publish(idx_file)
        return {
            "bin": {"bytes": size, "sha256": self._digest.hexdigest()},
            "idx": {"bytes": len(index), "sha256": hashlib.sha256(index).hexdigest()},
        }

    def discard(self) -> None:
        """Delete what is not published, after an error."""
        if self._tokens is not None:
            self._tokens.close()
        for suffix in (".bin", ".idx"):
            temporary_name(shard_file(self.stem, suffix)).unlink(missing_ok=True)

    def _index(self) -> bytes:
        lengths = np.frombuffer(self.lengths, dtype=np.int32).astype("<i4", copy=False)
        pointers = np.zeros(len(lengths), dtype="<i8")
        np.cumsum(lengths[:-1], dtype=np.int64, out=pointers[1:])
        table = cut_blocks(lengths, self.block_tokens).rows_B2 if self.block_tokens else np.empty((0, 2))
        self.blocks = max(len(table) - 1, 0)
        described = {"block_tokens": self.block_tokens, "blocks": self.blocks} if self.block_tokens else {}
        trailer = json.dumps({**self.trailer, **described}, sort_keys=True).encode()
        return b"".join(
            [
                HEADER.pack(INDEX_MAGIC, INDEX_VERSION, INT32_CODE, len(lengths), len(self.documents)),
                lengths.tobytes(),
                (pointers * TOKEN_BYTES).tobytes(),
                np.frombuffer(self.documents, dtype=np.int64).astype("<i8", copy=False).tobytes(),
                self.modes.tobytes(),
                TRAILER_HEADER.pack(TRAILER_MAGIC, len(trailer)),
                trailer,
                table.astype("<i8").tobytes(),
            ]
        )


class TokenFile:
    """Memory-mapped reader of one shard. Cheap to open, picklable (a copy in another process reopens the files).

    Raises:
        ValueError: a file is missing, of the wrong size or of another format; one line that names it and says what to do.
    """

    stem: Path
    """Path of the shard's files without their suffix."""
    kind: Kind
    """Either "mono" or "pair"."""
    languages: tuple[str, ...]
    """The languages that `modes` indexes; for pairs (source, target)."""
    tokenizer_sha256: str
    """Hash of the tokenizer that made the ids."""
    tokens: NDArray[np.int32]
    """int32 (T,), all ids of the shard, no specials."""
    lengths: NDArray[np.int32]
    """int32 (S,), tokens per sequence."""
    pointers: NDArray[np.int64]
    """int64 (S,), byte offset of each sequence in the .bin file."""
    documents: NDArray[np.int64]
    """int64 (D+1,), document d is the sequences documents[d] … documents[d+1]-1."""
    modes: NDArray[np.int8]
    """int8 (S,), language index per sequence."""
    block_tokens: int
    """Size of the blocks in `blocks`; 0 without a table."""
    blocks: BlockTable | None
    """Where blocks begin, mapped too; None without a table."""

    def __init__(self, stem: Path) -> None:
        self.stem = Path(stem)
        idx_file, bin_file = shard_file(self.stem, ".idx"), shard_file(self.stem, ".bin")
        self._maps = {path: mapped(path) for path in (bin_file, idx_file)}
        tokens, index = (np.frombuffer(mapped, dtype=np.uint8) for mapped in self._maps.values())
        sequences, boundaries = self._read_header(index, idx_file)
        sizes = (4 * sequences, 8 * sequences, 8 * boundaries, sequences)
        ends = HEADER.size + np.cumsum(sizes)
        if index.size < ends[-1] + TRAILER_HEADER.size:
            raise ValueError(f"{idx_file}: cut off at {index.size} bytes, {int(ends[-1])} announced; {MEND}")
        starts = [HEADER.size, *ends.tolist()]
        self.lengths = index[starts[0] : starts[1]].view("<i4")
        self.pointers = index[starts[1] : starts[2]].view("<i8")
        self.documents = index[starts[2] : starts[3]].view("<i8")
        self.modes = index[starts[3] : starts[4]].view("i1")
        trailer, table = self._read_trailer(index[starts[4] :], idx_file)
        self.kind = trailer["kind"]
        self.languages = tuple(trailer["languages"])
        self.tokenizer_sha256 = trailer["tokenizer_sha256"]
        self.block_tokens = trailer.get("block_tokens", 0)
        self.blocks = BlockTable(table) if self.block_tokens else None
        if self.kind == "pair" and sequences % 2:
            raise ValueError(f"{idx_file}: {sequences} sequences, of pairs there is an even number; {MEND}")
        announced = int(self.pointers[-1]) + TOKEN_BYTES * int(self.lengths[-1])
        if len(tokens) != announced:
            raise ValueError(f"{bin_file}: {len(tokens)} bytes, its index announces {announced}; {MEND}")
        if self.documents[0] != 0 or self.documents[-1] != sequences:
            raise ValueError(f"{idx_file}: documents do not span the {sequences} sequences; {MEND}")
        self.tokens = tokens.view("<i4")

    @staticmethod
    def _read_header(index: NDArray[np.uint8], idx_file: Path) -> tuple[int, int]:
        if index.size < HEADER.size:
            raise ValueError(f"{idx_file}: cut off at {index.size} bytes, inside the header; {MEND}")
        magic, version, code, sequences, boundaries = HEADER.unpack(bytes(index[: HEADER.size]))
        if (magic, version, code) != (INDEX_MAGIC, INDEX_VERSION, INT32_CODE):
            raise ValueError(f"{idx_file}: not a MMIDIDX index, version 1, of int32 ids; {MEND}")
        if max(sequences, boundaries) > index.size:
            raise ValueError(f"{idx_file}: cut off at {index.size} bytes, {sequences} sequences announced; {MEND}")
        if sequences < 1 or boundaries < 2:
            raise ValueError(f"{idx_file}: {sequences} sequences in {boundaries - 1} documents; {MEND}")
        return sequences, boundaries

    @staticmethod
    def _read_trailer(raw: NDArray[np.uint8], idx_file: Path) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """The trailer's JSON, and the block table that follows it (empty without one)."""
        magic, length = TRAILER_HEADER.unpack(bytes(raw[: TRAILER_HEADER.size]))
        body, table = np.split(raw[TRAILER_HEADER.size :], [min(length, len(raw))])
        if magic != TRAILER_MAGIC or length != len(body):
            raise ValueError(f"{idx_file}: damaged or foreign trailer; {MEND}")
        try:
            trailer: dict[str, Any] = json.loads(bytes(body))
        except (ValueError, RecursionError):
            raise ValueError(f"{idx_file}: trailer is not JSON; {MEND}") from None
        if not isinstance(trailer, dict):
            raise ValueError(f"{idx_file}: trailer is no JSON object; {MEND}")
        if trailer.get("schema") != SCHEMA:
            raise ValueError(f"{idx_file}: schema {trailer.get('schema')}, this reader knows {SCHEMA}; {MEND}")
        languages, blocks = trailer.get("languages"), trailer.get("blocks", 0)
        named = isinstance(languages, list) and all(isinstance(language, str) for language in languages)
        if (
            not named
            or trailer.get("kind") not in get_args(Kind)
            or not isinstance(trailer.get("tokenizer_sha256"), str)
            or not (type(blocks) is int and type(size := trailer.get("block_tokens", 0)) is int)
            or not (size == 0 or size > SPECIAL_TOKENS)
        ):
            raise ValueError(f"{idx_file}: trailer without kind, languages, tokenizer or blocks; {MEND}")
        announced = BLOCK_ROW_BYTES * (blocks + 1) if trailer.get("block_tokens") else 0
        if len(table) != announced:
            raise ValueError(f"{idx_file}: {len(table)} bytes of block table, {announced} announced; {MEND}")
        return trailer, table.view("<i8").reshape(-1, 2)

    def __len__(self) -> int:
        """Number of sequences S."""
        return len(self.lengths)

    @cached_property
    def links(self) -> LinkFile:
        """The word links of its pairs, opened when they are first asked for; of a shard that was made with links.

        Raises:
            ValueError: their file is missing or damaged.
        """
        path = shard_file(self.stem, LINKS_SUFFIX)
        links = LinkFile(path, mapped(path), len(self) // 2)
        self._maps[path] = links.map
        return links

    def read_sequence(self, i: int) -> NDArray[np.int32]:
        """Sequence i as a read-only view (L,) into the mapped file: no copy."""
        start = int(self.pointers[i]) // TOKEN_BYTES
        return self.tokens[start : start + int(self.lengths[i])]

    def read_pairs(self, pairs_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where source and target of these pairs (sequences 2i and 2i + 1) begin in `tokens`, and their lengths.

        Both int64 (B, 2).

        Raises:
            ValueError: they do not lie where their neighbours leave room, so the index is damaged.
        """
        begin_B2 = self.pointers.reshape(-1, 2)[pairs_B] // TOKEN_BYTES
        length_B2 = self.lengths.reshape(-1, 2)[pairs_B].astype(np.int64)
        end_B2 = begin_B2 + length_B2
        next_B = self.pointers[np.minimum(2 * pairs_B + 2, len(self) - 1)] // TOKEN_BYTES
        next_B[2 * pairs_B + 2 == len(self)] = len(self.tokens)
        if (
            (length_B2 < 1).any()
            or (begin_B2 < 0).any()
            or (end_B2 > len(self.tokens)).any()
            or (begin_B2[:, 1] != end_B2[:, 0]).any()
            or (next_B != end_B2[:, 1]).any()
        ):
            raise ValueError(self.damage)
        return begin_B2, length_B2

    def read_block(self, table: BlockTable, index: int) -> Block:
        """Where block `index` of this shard lies in `tokens`; `table` is `blocks`, or one of another block size.

        Raises:
            ValueError: outside of the shard, so the index is damaged.
        """
        block = table.block(index, self.pointers, self.lengths, len(self.tokens))
        if block is None:
            raise ValueError(self.damage)
        return block

    @property
    def damage(self) -> str:
        """What to say where sequences or blocks do not lie as they were written."""
        return f"{shard_file(self.stem, '.idx')}: damaged, its sequences do not lie end to end; {VERIFY}"

    def check_sequences(self) -> None:
        """See that all sequences lie end to end: reads the whole index (12 bytes a sequence), which opening does not.

        Raises:
            ValueError: they do not.
        """
        if not self._lie_end_to_end():
            raise ValueError(self.damage)

    def _lie_end_to_end(self) -> bool:
        ends = self.pointers + TOKEN_BYTES * self.lengths.astype(np.int64)
        return bool((self.lengths > 0).all() and self.pointers[0] == 0 and (self.pointers[1:] == ends[:-1]).all())

    def check_size(self) -> None:
        """See that its files are as long as when they were opened: the system kills who reads where a mapped file was cut.

        Raises:
            ValueError: one is not.
        """
        for path, held in self._maps.items():
            if held.size() != len(held):
                raise ValueError(f"{path}: {held.size()} bytes, {len(held)} when it was opened; {VERIFY}")

    def __reduce__(self) -> tuple[type[TokenFile], tuple[Path]]:
        return (TokenFile, (self.stem,))

    def problems(self, vocab_size: int) -> list[str]:
        """Every broken invariant of the shard's content, one line each: offsets, documents, modes, ids in range.

        Reads all of it; opening a shard checks only the sizes.
        """
        found = []
        bin_file, idx_file = shard_file(self.stem, ".bin"), shard_file(self.stem, ".idx")
        if not self._lie_end_to_end():
            found.append(f"{idx_file}: sequences do not lie end to end")
        per_document = np.diff(self.documents)
        if (per_document < 1).any():
            found.append(f"{idx_file}: documents are not in ascending order")
        if (self.modes < 0).any() or (self.modes >= len(self.languages)).any():
            found.append(f"{idx_file}: a sequence mode is not the index of one of {list(self.languages)}")
        # only of sound lengths: damaged ones may mean billions of chunks
        if (
            not found
            and self.blocks
            and not np.array_equal(self.blocks.rows_B2, cut_blocks(self.lengths, self.block_tokens).rows_B2)
        ):
            found.append(f"{idx_file}: its blocks are not where {self.block_tokens} tokens of sentences put them")
        if self.kind == "pair" and ((per_document != 2).any() or (self.modes != np.arange(len(self)) % 2).any()):
            found.append(f"{idx_file}: a pair is not exactly two sequences, source then target")
        low, high = int(self.tokens.min()), int(self.tokens.max())
        if not are_stored_ids(self.tokens, vocab_size):
            found.append(f"{bin_file}: ids from {low} to {high}, allowed are {UNK} to {vocab_size - 2}")
        return found


def are_stored_ids(ids_T: NDArray[np.int32], vocab_size: int) -> bool:
    """Whether ids are such as shards hold: `<s>`, `<pad>`, `</s>`, which are below `<unk>`, and `<mask>` are
    added at load and never stored."""
    return not len(ids_T) or (int(ids_T.min()) >= UNK and int(ids_T.max()) < vocab_size - 1)
