"""Frames with a table: the text as it was, read from anywhere, the same shards as of plain text, and damage told."""

import bz2
import gzip
import lzma
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data_prep.text.frames import FOOTER, SKIPPABLE, has_table, open_at, read_table
from data_prep.text.rechunk import rechunk
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import shard_file

Run = Callable[..., tuple[int, str, str]]
OPTIONS = {"frame_bytes": 700, "level": 3, "threads": 2, "advance": lambda size: None}


def shards_of(data_dir: Path) -> list[tuple[bytes, bytes]]:
    stems = [shard.stem for shard in Manifest.load(data_dir).shards]
    return [(shard_file(stem, ".bin").read_bytes(), shard_file(stem, ".idx").read_bytes()) for stem in stems]


def frames_of(path: Path) -> list[bytes]:
    """Each frame decompressed alone, by the library."""
    raw, texts = path.read_bytes(), []
    with open(path, "rb", buffering=0) as file:
        table = read_table(file, path)
    assert table is not None
    for start, end in zip(table.stored_F1[:-1], table.stored_F1[1:], strict=True):
        texts.append(zstandard.ZstdDecompressor().decompress(raw[start:end]))
    return texts


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.txt", bytes),
        ("a.txt.xz", lzma.compress),
        ("a.txt.gz", gzip.compress),
        ("a.txt.bz2", bz2.compress),
        ("a.zst", zstandard.compress),
    ],
)
def test_the_text_stays_as_it_is_in_frames_of_whole_lines(
    name: str, compress: Callable[[bytes], bytes], documents_text: Callable[[int, int], bytes], tmp_path: Path
) -> None:
    text = b"\xef\xbb\xbf" + documents_text(100, 1) + b"no newline at the end"
    (tmp_path / name).write_bytes(compress(text))
    written, frames = rechunk(tmp_path / name, tmp_path / "out", **OPTIONS)
    assert written == tmp_path / "out" / (name if name == "a.zst" else "a.txt.zst")
    texts = frames_of(written)
    assert frames == len(texts) > 10
    assert b"".join(texts) == text
    assert all(frame.endswith(b"\n") and len(frame) >= 700 for frame in texts[:-1])
    with zstandard.ZstdDecompressor().stream_reader(written.open("rb"), read_across_frames=True) as stream:
        assert stream.read() == text, "any reader of zstd sees one text"
    assert not list(tmp_path.rglob("*.tmp"))


def test_reading_begins_anywhere(documents_text: Callable[[int, int], bytes], tmp_path: Path) -> None:
    text, draw = documents_text(100, 1), random.Random(0)
    (tmp_path / "a.txt").write_bytes(text)
    written, _ = rechunk(tmp_path / "a.txt", tmp_path, **OPTIONS)
    with open(written, "rb", buffering=0) as file:
        for position in (0, 1, len(text) - 1, len(text), *(draw.randrange(len(text)) for _ in range(50))):
            stream = open_at(file, written, position)
            found = b"".join(iter(lambda stream=stream: stream.read(999), b""))
            assert found == text[position:]


def test_threads_and_repetitions_give_the_same_bytes(mono_file: Path, tmp_path: Path) -> None:
    found = {rechunk(mono_file, tmp_path / str(n), **OPTIONS | {"threads": n})[0].read_bytes() for n in (1, 2, 5)}
    assert len(found) == 1


def test_shards_are_those_of_the_plain_text_and_nothing_is_spooled(
    mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("rechunk", mono_file, "--out", tmp_path / "framed", "--frame-bytes", 900)[0] == 0
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--shard-bytes", 2000)
    assert run("mono", mono_file, *options, "--out", tmp_path / "plain")[0] == 0
    monkeypatch.setattr("data_prep.plan.make_plan.SpoolWriter", None)
    framed = tmp_path / "framed" / f"{mono_file.name}.zst"
    code, _, err = run("mono", framed, *options, "--out", tmp_path / "data", "--workers", 2)
    assert code == 0, err
    assert shards_of(tmp_path / "data") == shards_of(tmp_path / "plain")
    assert len(shards_of(tmp_path / "data")) > 3


def test_a_pair_may_be_frames_on_one_side_and_plain_on_the_other(
    pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    assert run("rechunk", pair_files[0], "--out", tmp_path / "framed", "--frame-bytes", 900)[0] == 0
    options = ("--pair", "en-de", "--tokenizer", tokenizer_dir, "--shard-bytes", 2000)
    assert run("parallel", *pair_files, *options, "--out", tmp_path / "plain")[0] == 0
    framed = tmp_path / "framed" / f"{pair_files[0].name}.zst"
    assert run("parallel", framed, pair_files[1], *options, "--out", tmp_path / "data")[0] == 0
    assert shards_of(tmp_path / "data") == shards_of(tmp_path / "plain")


def test_zstd_without_a_table_is_read_as_any_archive(
    mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    archive = tmp_path / "text.zst"
    archive.write_bytes(zstandard.compress(mono_file.read_bytes()))
    assert not has_table(archive)
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--shard-bytes", 2000)
    assert run("mono", archive, *options, "--out", tmp_path / "data")[0] == 0
    assert run("mono", mono_file, *options, "--out", tmp_path / "plain")[0] == 0
    assert shards_of(tmp_path / "data") == shards_of(tmp_path / "plain")


def spoil(raw: bytes, how: str) -> bytes:
    table = len(raw) - SKIPPABLE.size - SKIPPABLE.unpack(raw[raw.rindex(b"\x5e\x2a\x4d\x18") :][:8])[1]
    if how == "a byte of a frame":
        return raw[:60] + bytes([raw[60] ^ 1]) + raw[61:]
    if how == "a frame is missing":
        return raw[:100] + raw[200:]
    if how == "sizes that do not add up":
        return raw[: table + SKIPPABLE.size] + b"\x01\x00\x00\x00" + raw[table + SKIPPABLE.size + 4 :]
    if how == "more frames than there is room for":
        return raw[: -FOOTER.size] + FOOTER.pack(1 << 31, 0, 0x8F92EAB1)
    return raw[: -FOOTER.size] + FOOTER.pack(FOOTER.unpack(raw[-FOOTER.size :])[0], 4, 0x8F92EAB1)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("a byte of a frame", "damaged archive"),
        ("a frame is missing", "table of frames is damaged"),
        ("sizes that do not add up", "table of frames is damaged"),
        ("more frames than there is room for", "table of frames is damaged"),
        ("reserved bits", "table of frames is damaged"),
    ],
)
def test_damage_is_one_line(
    how: str, told: str, mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    written, _ = rechunk(mono_file, tmp_path / "framed", **OPTIONS)
    written.write_bytes(spoil(written.read_bytes(), how))
    code, _, err = run("mono", written, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert code == 1
    [line] = [line for line in err.splitlines() if not line.startswith("reading:")]
    assert line.startswith(f"error: {written}: ") and told in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("missing.xz",), "missing.xz: no such file"),
        (("cut.xz",), "cut.xz: truncated archive"),
        (("text.txt", "--frame-bytes", 0), "--frame-bytes 0: must be from 1 to "),
        (("text.txt", "--level", 99), "--level 99: must be from 1 to 22"),
        (("text.txt", "--workers", 0), "--workers 0: must be at least 1"),
        (("a/x.txt", "b/x.txt"), "x.txt.zst: two of the files would have this name"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: tuple[object, ...], told: str, mono_file: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cut.xz").write_bytes(lzma.compress(os.urandom(5000))[:-100])
    for name in "ab":
        Path(name).mkdir()
        Path(name, "x.txt").write_text("a\n")
    code, _, err = run("rechunk", *arguments, "--out", "out")
    assert code == 1
    told_lines = [line for line in err.splitlines() if not line.startswith("rechunking:")]
    assert len(told_lines) == 1 and told in told_lines[0]
    assert not Path("out").exists() or not list(Path("out").iterdir())


def test_a_file_is_not_written_over_itself(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "a.zst"
    path.write_bytes(zstandard.compress(b"text\n"))
    assert "would be written over itself" in run("rechunk", path, "--out", tmp_path)[2]


def test_the_format_is_the_one_that_zstd_specifies(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n")
    written, frames = rechunk(tmp_path / "a.txt", tmp_path, **OPTIONS | {"frame_bytes": 1})
    raw, compressor = written.read_bytes(), zstandard.ZstdCompressor(level=3, write_checksum=True)
    sizes = [len(compressor.compress(text)) for text in (b"one\n", b"two\n")]
    table = b"".join(number.to_bytes(4, "little") for number in (0x184D2A5E, 25, sizes[0], 4, sizes[1], 4, 2))
    assert frames == 2
    assert raw[sum(sizes) :] == table + b"\x00" + (0x8F92EAB1).to_bytes(4, "little")
    assert len(raw) == sum(sizes) + 8 + 25
