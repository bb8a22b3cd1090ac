"""The token file's layout, byte by byte, and what happens to a damaged one."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_files.token_file import TokenFile, TokenFileWriter, shard_file
from tests.token_files import add_sequence

ids = st.lists(st.integers(3, 250_000), min_size=1, max_size=9)
documents = st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=6)


def write(stem: Path, content: list[list[list[int]]], kind: str = "mono", languages: tuple[str, ...] = ("de",)) -> None:
    writer = TokenFileWriter(stem, kind, languages, "f" * 64)
    for document in content:
        for index, sequence in enumerate(document):
            add_sequence(writer, sequence, index % len(languages))
        writer.end_document()
    assert writer.close()


def parse_megatron_layout(stem: Path) -> tuple[list[list[int]], list[int], list[int]]:
    """Sequences, document boundaries and modes, read with struct alone from Megatron-LM's published layout."""
    index = shard_file(stem, ".idx").read_bytes()
    tokens = shard_file(stem, ".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, boundaries = struct.unpack_from("<QBQQ", index, 9)
    assert (version, code) == (1, 4)
    at = 34
    lengths = struct.unpack_from(f"<{sequences}i", index, at)
    pointers = struct.unpack_from(f"<{sequences}q", index, at := at + 4 * sequences)
    ends = struct.unpack_from(f"<{boundaries}q", index, at := at + 8 * sequences)
    modes = struct.unpack_from(f"<{sequences}b", index, at + 8 * boundaries)
    content = [list(struct.unpack_from(f"<{n}i", tokens, p)) for n, p in zip(lengths, pointers, strict=True)]
    assert 4 * sum(lengths) == len(tokens)
    return content, list(ends), list(modes)


@settings(max_examples=40, deadline=None)
@given(content=documents)
def test_what_is_written_is_read_back(content: list[list[list[int]]], tmp_path_factory: pytest.TempPathFactory) -> None:
    stem = tmp_path_factory.mktemp("round") / "a.b-00000"
    write(stem, content)
    tokens = TokenFile(stem)
    flat = [sequence for document in content for sequence in document]
    assert [tokens.read_sequence(i).tolist() for i in range(len(tokens))] == flat
    assert np.diff(tokens.documents).tolist() == [len(document) for document in content]
    assert tokens.tokens.tolist() == [token for sequence in flat for token in sequence]
    assert tokens.pointers.tolist() == [0, *np.cumsum([4 * len(sequence) for sequence in flat])[:-1].tolist()]
    assert tokens.problems(vocab_size=250_002) == []


@settings(max_examples=20, deadline=None)
@given(content=documents)
def test_an_independent_parser_of_megatrons_layout_agrees(
    content: list[list[list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    stem = tmp_path_factory.mktemp("layout") / "shard-00000"
    write(stem, content)
    sequences, ends, modes = parse_megatron_layout(stem)
    assert sequences == [sequence for document in content for sequence in document]
    assert ends == [0, *np.cumsum([len(document) for document in content]).tolist()]
    assert set(modes) == {0}


def test_a_pair_is_two_sequences_with_the_modes_of_its_languages(tmp_path: Path) -> None:
    write(tmp_path / "p", [[[5, 6], [7]], [[8], [9, 10]]], kind="pair", languages=("en", "de"))
    tokens = TokenFile(tmp_path / "p")
    assert (tokens.kind, tokens.languages) == ("pair", ("en", "de"))
    assert tokens.documents.tolist() == [0, 2, 4]
    assert tokens.modes.tolist() == [0, 1, 0, 1]


def test_the_trailer_names_languages_and_tokenizer(tmp_path: Path) -> None:
    write(tmp_path / "t", [[[5]]])
    index = shard_file(tmp_path / "t", ".idx").read_bytes()
    at = index.index(b"XLMALIGN")
    (length,) = struct.unpack_from("<Q", index, at + 8)
    trailer = json.loads(index[at + 16 :])
    assert length == len(index) - at - 16
    assert trailer == {"kind": "mono", "languages": ["de"], "schema": 1, "tokenizer_sha256": "f" * 64}


def test_nothing_is_published_without_a_sequence(tmp_path: Path) -> None:
    writer = TokenFileWriter(tmp_path / "empty", "mono", ("de",), "f" * 64)
    writer.end_document()
    assert not writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_pickled_reader_reopens_its_files(tmp_path: Path) -> None:
    write(tmp_path / "p", [[[5, 6], [7]]])
    pickled = pickle.dumps(TokenFile(tmp_path / "p"))
    assert len(pickled) < 500
    assert pickle.loads(pickled).read_sequence(1).tolist() == [7]


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize("cut", [0, 5, 40, -1, -4])
def test_a_cut_off_file_is_refused_by_name(tmp_path: Path, suffix: str, cut: int) -> None:
    write(tmp_path / "c", [[[5, 6, 7]] * 20])
    path = shard_file(tmp_path / "c", suffix)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"c\{suffix}: "):
        TokenFile(tmp_path / "c")


def test_every_cut_of_the_index_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "c", [[[5, 6, 7], [8]], [[9]]])
    path = shard_file(tmp_path / "c", ".idx")
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"c\.idx: "):
            TokenFile(tmp_path / "c")


@pytest.mark.parametrize(
    ("suffix", "offset", "value", "problem"),
    [
        (".bin", 0, struct.pack("<i", 2), "ids from 2"),
        (".bin", 0, struct.pack("<i", 99), "ids from 5 to 99"),
        (".idx", 34 + 4 * 4 + 8, struct.pack("<q", 4), "end to end"),
        (".idx", 34 + 4 * 4 + 8 * 4 + 8, struct.pack("<q", 3), "exactly two"),
        (".idx", 34 + 4 * 4 + 8 * 4 + 8 * 3, b"\x05", "mode"),
    ],
)
def test_a_wrong_value_inside_is_found(tmp_path: Path, suffix: str, offset: int, value: bytes, problem: str) -> None:
    write(tmp_path / "w", [[[6, 5], [7, 8]], [[9], [10]]], kind="pair", languages=("en", "de"))
    path = shard_file(tmp_path / "w", suffix)
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)
    assert any(problem in line for line in TokenFile(tmp_path / "w").problems(vocab_size=100))
