"""Blocks are whole sentences up to a limit, hold every token once, and are found again in the index."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_files.block_table import chunks_of, cut_blocks
from data_prep.token_files.token_file import TOKEN_BYTES, TokenFile, TokenFileWriter, shard_file
from tests.token_files import add_sequence


def blocks_of(lengths: list[int], limit: int) -> list[tuple[int, list[int]]]:
    """The first token of each block, and where its chunks end."""
    lengths_S = np.array(lengths, dtype=np.int32)
    table = cut_blocks(lengths_S, limit)
    pointers_S = TOKEN_BYTES * np.cumsum([0, *lengths[:-1]])
    blocks = [table.block(index, pointers_S, lengths_S, sum(lengths)) for index in range(len(table))]
    assert None not in blocks
    (chunks_B, length_C), sound_B = chunks_of(blocks, limit, TOKEN_BYTES)
    assert sound_B.all()
    parts = np.split(length_C, np.cumsum(chunks_B)[:-1])
    found = [(block.start, (block.start + np.cumsum(part)).tolist()) for block, part in zip(blocks, parts, strict=True)]
    assert [block.end for block in blocks] == [ends[-1] for _, ends in found]
    return found


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80), limit=st.integers(3, 40))
@settings(max_examples=200, deadline=None)
def test_blocks_keep_the_limit_and_hold_every_token_once(lengths: list[int], limit: int) -> None:
    blocks = blocks_of(lengths, limit)
    assert blocks[0][0] == 0 and blocks[-1][1][-1] == sum(lengths)
    assert all(ends[-1] == start for (_, ends), (start, _) in pairwise(blocks))
    chunks = [np.diff([start, *ends]) for start, ends in blocks]
    assert all((lengths_C > 0).all() for lengths_C in chunks)
    ends = {end for _, ends in blocks for end in ends}
    assert set(np.cumsum(lengths).tolist()) <= ends, "a sentence ends where a chunk ends"
    costs = [1 + int((lengths_C + 1).sum()) for lengths_C in chunks]
    assert max(costs) <= limit
    following = [int(lengths_C[0]) + 1 for lengths_C in chunks[1:]]
    assert all(used + more > limit for used, more in zip(costs, following, strict=False)), "the next one still fitted"


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), limit=st.integers(3, 40))
@settings(max_examples=50, deadline=None)
def test_a_chunk_that_is_not_a_sentences_last_fills_its_block(lengths: list[int], limit: int) -> None:
    sentence_ends = set(np.cumsum(lengths).tolist())
    for start, ends in blocks_of(lengths, limit):
        inside = [end for end in ends if end not in sentence_ends]
        assert not inside or (inside == [start + limit - 2] and len(ends) == 1)


def write(stem: Path, block_tokens: int) -> Path:
    writer = TokenFileWriter(stem, "mono", ("de",), "f" * 64, block_tokens)
    for length in (3, 40, 2, 9, 9, 1):
        add_sequence(writer, range(5, 5 + length))
    writer.end_document()
    assert writer.close()
    return stem


def test_the_table_is_kept_in_the_index(tmp_path: Path) -> None:
    tokens = TokenFile(write(tmp_path / "a", 16))
    assert tokens.blocks is not None
    assert tokens.block_tokens == 16
    assert tokens.blocks.rows_B2.tolist() == cut_blocks(tokens.lengths, 16).rows_B2.tolist()
    assert tokens.read_block(tokens.blocks, 0)[:2] == (0, 3)
    assert tokens.problems(100) == []
    assert TokenFile(write(tmp_path / "b", 0)).blocks is None


def test_damaged_lengths_are_told_before_blocks_are_cut_by_them(tmp_path: Path) -> None:
    index = shard_file(write(tmp_path / "a", 16), ".idx")
    whole = bytearray(index.read_bytes())
    whole[34:38] = (2**31 - 1).to_bytes(4, "little")
    index.write_bytes(whole)
    assert TokenFile(tmp_path / "a").problems(100) == [f"{index}: sequences do not lie end to end"]


@pytest.mark.parametrize("size", [2, -1, "16"])
def test_a_size_that_holds_no_token_is_refused(size: object, tmp_path: Path) -> None:
    index = shard_file(write(tmp_path / "a", 16), ".idx")
    whole = index.read_bytes()
    start = whole.index(b'{"block_tokens": 16')
    end = whole.index(b"}", start) + 1
    changed = json.dumps(json.loads(whole[start:end]) | {"block_tokens": size}).encode()
    index.write_bytes(whole[: start - 8] + len(changed).to_bytes(8, "little") + changed + whole[end:])
    with pytest.raises(ValueError, match="trailer without kind, languages, tokenizer or blocks"):
        TokenFile(tmp_path / "a")


def test_a_wrong_table_is_found_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    index = shard_file(write(tmp_path / "a", 16), ".idx")
    whole = index.read_bytes()
    index.write_bytes(whole[:-16] + (7).to_bytes(8, "little") + whole[-8:])
    assert "not where 16 tokens of sentences put them" in TokenFile(tmp_path / "a").problems(100)[0]
    for cut in range(1, 200):
        index.write_bytes(whole[:-cut])
        with pytest.raises(ValueError, match=r"a\.idx: "):
            TokenFile(tmp_path / "a")
    index.write_bytes(whole + bytes(16))
    with pytest.raises(ValueError, match=r"a\.idx: .* bytes of block table"):
        TokenFile(tmp_path / "a")
