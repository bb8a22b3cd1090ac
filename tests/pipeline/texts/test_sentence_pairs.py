"""Pairs from files of every kind, and what is said of those that cannot be read."""

from __future__ import annotations

import gzip
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.texts.sentence_pairs import PairReader

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
PAIRS = [(["a", "b"], ["c"]), ([], ["d"])]


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("a\u2028b\x0cc\r\nd\re\nf".encode())
    (tmp_path / "b").write_bytes(b"1\n2\n3")
    assert list(PairReader(tmp_path / "a", tmp_path / "b")) == [
        (["a\u2028b", "c"], ["1"]),
        (["d", "e"], ["2"]),
        (["f"], ["3"]),
    ]


def test_sides_may_be_empty_in_separated_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("||| x y\nz |||\n|||\n\na ||| b\n", encoding="utf-8")
    assert list(PairReader(tmp_path / "a")) == [([], ["x", "y"]), (["z"], []), ([], []), ([], []), (["a"], ["b"])]


@pytest.mark.parametrize("lines", [(3, 5), (5, 3), (0, 1)])
def test_unequal_files_are_told_with_both_numbers_after_all_pairs(tmp_path: Path, lines: tuple[int, int]) -> None:
    for name, count in zip("ab", lines, strict=True):
        (tmp_path / name).write_text("x\n" * count, encoding="utf-8")
    pairs = []
    with pytest.raises(ValueError, match=rf"has {min(lines)} lines, .* has {max(lines)};"):
        pairs.extend(PairReader(tmp_path / "a", tmp_path / "b"))
    assert len(pairs) == min(lines)


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_files_are_read(tmp_path: Path, suffix: str) -> None:
    for name, text in (("a", b"a b\n\n"), ("b", b"c\nd\n"), ("both", b"a b ||| c\n||| d\n")):
        (tmp_path / f"{name}.txt{suffix}").write_bytes(PACKERS[suffix](text))
    assert list(PairReader(tmp_path / f"a.txt{suffix}", tmp_path / f"b.txt{suffix}")) == PAIRS
    assert list(PairReader(tmp_path / f"both.txt{suffix}")) == PAIRS


def test_a_damaged_archive_is_told_after_the_pairs_before_it(tmp_path: Path) -> None:
    noise = os.urandom(3 << 20).hex(" ", 40).encode().replace(b" ", b" ||| b\n")
    (tmp_path / "a.gz").write_bytes(gzip.compress(noise)[:-20])
    pairs = []
    with pytest.raises(ValueError, match=r"a\.gz: .*archive"):
        pairs.extend(PairReader(tmp_path / "a.gz"))
    assert len(pairs) > 1000 and all(len(source) == 1 and target == ["b"] for source, target in pairs)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_table_of_two_columns_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.tsv{suffix}"
    path.write_bytes(PACKERS.get(suffix, bytes)(b"a b\tc\n\td\n"))
    assert list(PairReader(path)) == PAIRS
    path.write_bytes(PACKERS.get(suffix, bytes)(b"a\tb\n1.2\ta\tb\n"))
    with pytest.raises(ValueError, match=r"a\.tsv.*:2: 3 columns; give a table with two, source and target"):
        list(PairReader(path))
    with pytest.raises(ValueError, match="is a table by its name; give it alone"):
        PairReader(path, path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "a CSV table"), ("a.json.gz", "JSON"), ("a.XML", "XML"), ("a.parquet", "a Parquet file")],
)
def test_what_is_no_text_by_its_name_is_refused_before_anything_is_loaded(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=f"is {kind}.* by its name, and text is needed; write its sentences to two"):
        PairReader(tmp_path / name)


ENCODED = {
    "Latin-1": (
        "caf\xe9".encode("latin-1"),
        "byte 0xe9 at 3 is not UTF-8; if this file is Latin-1, convert it: iconv -f LATIN1",
    ),
    "Windows": (
        "\u201cno\u201d".encode("cp1252"),
        "if this file is Windows-1252, convert it: iconv -f WINDOWS-1252 -t UTF-8",
    ),
    "UTF-16": ("hello ||| hallo".encode("utf-16"), "is not UTF-8 but UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": ("hello ||| hallo".encode("utf-16-le"), "is not UTF-8 but UTF-16"),
    "a damaged line": ("é".encode() + b"\xff", "byte 0xff at 2 is not UTF-8; the line is damaged, correct it"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_another_encoding_is_named_with_the_line_and_the_command_that_converts_it(tmp_path: Path, name: str) -> None:
    raw, message = ENCODED[name]
    (tmp_path / "a.en").write_bytes(raw + b"\n")
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - looked at below
        list(PairReader(tmp_path / "a.en"))
    assert str(caught.value).startswith(f"{tmp_path / 'a.en'}:1: ") and message in str(caught.value)
    if "iconv" in message:
        assert str(caught.value).endswith(f"{tmp_path / 'a.en'} > a.utf8.en")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbf\n")
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf\nb\n")
    assert list(PairReader(tmp_path / "a", tmp_path / "b")) == [(["a"], []), ([], ["b"])]


def test_one_file_of_single_sentences_asks_for_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("the house\n")
    with pytest.raises(
        ValueError, match=r"a\.en:1: no '\|\|\|' between spaces; give the file of its translations after it"
    ):
        list(PairReader(tmp_path / "a.en"))


def test_bad_lines_within_the_rate_are_pairs_without_words_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a ||| b\nno sides\n\xff ||| x\n" + b"c ||| d\n" * 7)
    reader = PairReader(tmp_path / "a", max_bad_rate=0.2)
    assert list(reader) == [(["a"], ["b"]), ([], []), ([], []), *[(["c"], ["d"])] * 7]
    assert reader.bad.count == 2 and reader.bad.first.startswith(f"{tmp_path / 'a'}:2: no '|||'")
    pairs = []
    with pytest.raises(
        ValueError, match=r"2 of 10 lines cannot be used, more than --max-bad-rate 0\.15; the first: .*:2: "
    ):
        pairs.extend(PairReader(tmp_path / "a", max_bad_rate=0.15))
    assert len(pairs) == 10


def test_too_many_bad_lines_end_it_early(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no sides\n" * 5000)
    pairs = []
    with pytest.raises(ValueError, match="1,000 of 1,000 lines cannot be used"):
        pairs.extend(PairReader(tmp_path / "a", max_bad_rate=0.5))
    assert len(pairs) == 1000


def test_names_that_are_not_utf_8_and_pipes_are_read(tmp_path: Path) -> None:
    name = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.en"))
    name.write_text("a b ||| c\n||| d\n")
    assert list(PairReader(name)) == PAIRS
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a b ||| c\n||| d\n",))
    writer.start()
    reader = PairReader(pipe)
    assert reader.comes_by_and_by and reader.size is None and list(reader) == PAIRS
    writer.join()
