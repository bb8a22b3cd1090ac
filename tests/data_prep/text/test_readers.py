"""How text becomes lines, documents and fields, whatever the archive."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.text.readers import (
    BadRecordError,
    decode_line,
    open_text,
    parse_columns,
    parse_tsv,
    split_lines,
)

COMPRESS = {
    "": lambda text: text,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
line_text = st.text(st.characters(codec="utf-8", exclude_characters="\n\x00"), max_size=20)


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(line_text, min_size=1), suffix=st.sampled_from(list(COMPRESS)))
def test_only_the_newline_byte_ends_a_line(
    lines: list[str], suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = "".join(f"{line}\n" for line in ["first", *lines]).encode()
    path = tmp_path_factory.mktemp("lines") / f"text{suffix}"
    path.write_bytes(COMPRESS[suffix](text))
    with open_text(path) as stream:
        content = stream.read()
    assert [decode_line(raw) for raw in split_lines(content)] == ["first", *lines]


def test_carriage_return_and_unicode_line_ends_stay_inside_their_line() -> None:
    assert split_lines("a\rb\r\nc\u2028d\u0085e\x0bf\n".encode()) == [b"a\rb\r", "c\u2028d\u0085e\x0bf".encode()]


def test_an_unfinished_last_line_counts_and_an_empty_one_does_not() -> None:
    assert split_lines(b"a\n\nb") == [b"a", b"", b"b"]
    assert split_lines(b"a\n") == [b"a"]
    assert split_lines(b"") == []


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2", ".zst"])
def test_several_members_in_one_archive_are_read_to_the_end(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\n" * 9000) + COMPRESS[suffix](b"two\n"))
    with open_text(path) as stream:
        assert stream.read() == b"one\n" * 9000 + b"two\n"


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2", ".zst"])
def test_every_cut_of_an_archive_is_refused(suffix: str, tmp_path: Path) -> None:
    whole = COMPRESS[suffix](bytes(range(32, 127)) * 9 + b"\n")
    path = tmp_path / f"text{suffix}"
    for size in range(6, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="truncated archive"), open_text(path) as stream:
            stream.read()


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2", ".zst"])
def test_a_flipped_byte_in_an_archive_is_refused(suffix: str, tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor(write_checksum=True).compress if suffix == ".zst" else COMPRESS[suffix]
    whole = bytearray(compress(bytes(range(32, 127)) * 9 + b"\n"))
    whole[len(whole) // 2] ^= 0x55
    path = tmp_path / f"text{suffix}"
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="archive"), open_text(path) as stream:
        stream.read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xz", b"plain text\n", "named as .xz but its first bytes are plain text"),
        ("a.txt", gzip.compress(b"x\n", mtime=0), "named as plain text but its first bytes are .gz"),
        ("a.gz", lzma.compress(b"x\n"), "named as .gz but its first bytes are .xz"),
        ("a.zip", b"PK\x03\x04....", "zip archive"),
        ("a.txt", b"", "empty file"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message), open_text(tmp_path / name):
        pass


@pytest.mark.parametrize(
    ("raw", "reason"), [(b"a\xff", "invalid_utf8"), (b"a\x00b", "nul"), (b"\xed\xa0\x80", "invalid_utf8")]
)
def test_bad_lines_have_a_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError, match=f"^{reason}$"):
        decode_line(raw)


def test_tsv_columns_are_found_by_name() -> None:
    assert parse_tsv(b"1.04\tHallo\tHello", parse_columns("score,source,target")) == ("Hallo", "Hello", 1.04)
    assert parse_tsv(b"x\tHallo\ty\tHello", parse_columns("-,target,-,source")) == ("Hello", "Hallo", None)


@pytest.mark.parametrize(("raw", "reason"), [(b"1\ta", "columns"), (b"1\ta\tb\tc", "columns"), (b"x\ta\tb", "score")])
def test_a_tsv_line_of_another_shape_is_bad(raw: bytes, reason: str) -> None:
    with pytest.raises(BadRecordError, match=f"^{reason}$"):
        parse_tsv(raw, ("score", "source", "target"))


@pytest.mark.parametrize(
    "columns", ["source", "source,target,target", "source,target,words", "score,score,source,target"]
)
def test_columns_that_make_no_pair_are_refused(columns: str) -> None:
    with pytest.raises(ValueError, match="--columns"):
        parse_columns(columns)
