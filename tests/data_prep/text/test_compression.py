"""Archives as people make them: several streams, padding, frames to skip, long windows; and every byte accounted for."""

import bz2
import gzip
import lzma
import os
import subprocess
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data_prep.text import compression
from data_prep.text.frames import read_table
from data_prep.text.readers import open_text
from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from tests.data_prep.source_kit import documents_of

Run = Callable[..., tuple[int, str, str]]

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
}
ONE, TWO = b"the cat sees\n" * 500, b"a dog\n"
SKIPPABLE = b"\x53\x2a\x4d\x18\x05\x00\x00\x00abcde"


def read(path: Path) -> bytes:
    with open_text(path) as stream:
        return stream.read()


def archive(folder: Path, suffix: str, *parts: bytes) -> Path:
    path = folder / f"text.txt{suffix}"
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("zeros", [0, 4, 8, 1 << 17])
def test_xz_streams_with_padding_between_and_after_them_are_one_text(zeros: int, tmp_path: Path) -> None:
    padding = bytes(zeros)
    path = archive(tmp_path, ".xz", lzma.compress(ONE), padding, lzma.compress(TWO), padding)
    assert subprocess.run(["xz", "-t", path], check=False).returncode == 0
    assert read(path) == ONE + TWO


@pytest.mark.parametrize("zeros", [0, 1, 511])
def test_gzip_members_with_zero_bytes_between_and_after_them_are_one_text(zeros: int, tmp_path: Path) -> None:
    assert (
        read(archive(tmp_path, ".gz", gzip.compress(ONE), bytes(zeros), gzip.compress(TWO), bytes(zeros))) == ONE + TWO
    )


def test_streams_as_parallel_compressors_write_them_are_one_text(tmp_path: Path) -> None:
    lines = [b"line %d\n" % number for number in range(300)]
    for suffix, compress in COMPRESS.items():
        assert read(archive(tmp_path, suffix, *(compress(line) for line in lines))) == b"".join(lines), suffix


@pytest.mark.parametrize(
    "parts", [(SKIPPABLE, "1"), ("1", SKIPPABLE, SKIPPABLE, "2"), (SKIPPABLE, "1", "2", SKIPPABLE)]
)
def test_zstd_frames_to_be_skipped_may_stand_anywhere(parts: tuple[bytes | str, ...], tmp_path: Path) -> None:
    frames = {"1": zstandard.compress(ONE), "2": zstandard.compress(TWO)}
    path = archive(tmp_path, ".zst", *(frames.get(part, part) for part in parts))  # type: ignore[arg-type]
    assert read(path) == b"".join({"1": ONE, "2": TWO}.get(part, b"") for part in parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("tail", [b"x", b"plain text", b"\x00\x00\x00\x00x", b"\x1f\x8c" * 20])
def test_what_follows_and_is_neither_a_stream_nor_padding_is_an_error(suffix: str, tail: bytes, tmp_path: Path) -> None:
    path = archive(tmp_path, suffix, COMPRESS[suffix](ONE), tail)
    with pytest.raises(ValueError, match=r"text\.txt\.\w+: damaged archive \(from byte \d+ on"):
        read(path)


@pytest.mark.parametrize(("suffix", "zeros"), [(".xz", 3), (".xz", 5), (".bz2", 4), (".zst", 4)])
def test_padding_that_the_format_does_not_allow_is_an_error(suffix: str, zeros: int, tmp_path: Path) -> None:
    for rest in (b"", COMPRESS[suffix](TWO)):
        with pytest.raises(ValueError, match="damaged archive"):
            read(archive(tmp_path, suffix, COMPRESS[suffix](ONE), bytes(zeros), rest))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_cut_of_a_second_stream_is_refused(suffix: str, tmp_path: Path) -> None:
    first, second = COMPRESS[suffix](ONE), COMPRESS[suffix](TWO)
    for size in range(1, len(second)):
        with pytest.raises(ValueError, match="truncated archive"):
            read(archive(tmp_path, suffix, first, second[:size]))


def test_a_padded_archive_is_whole_in_the_data_and_rechunked(
    mono: Run, run: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = archive(tmp_path, ".xz", lzma.compress(b"the cat\n"), bytes(4), lzma.compress(b"a dog\n"))
    assert mono(path)[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"]]
    assert run("rechunk", path, "--out", tmp_path / "framed")[0] == 0
    assert read(tmp_path / "framed" / "text.txt.zst") == b"the cat\na dog\n"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_an_archive_with_something_behind_it_leaves_nothing_in_the_data(
    suffix: str, mono: Run, run: Run, tmp_path: Path
) -> None:
    path = archive(tmp_path, suffix, COMPRESS[suffix](ONE), b"\n<html>error 500</html>")
    code, _, err = mono(path)
    assert (code, err.count("error:")) == (1, 1)
    assert f"{path}: damaged archive (from byte" in err
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Manifest.load(tmp_path / "data")
    assert run("rechunk", path, "--out", tmp_path / "framed")[0] == 1
    assert not list((tmp_path / "framed").iterdir())


def long_window(folder: Path, text: bytes) -> Path:
    """As `zstd --ultra -22 --long=31` writes what a pipe brings: a window of 2 GiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True, compression_level=3)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return archive(folder, ".zst", writer.compress(text) + writer.flush())


def test_zstd_with_a_long_window_is_read_where_memory_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = long_window(tmp_path, ONE)
    assert zstandard.get_frame_parameters(path.read_bytes()).window_size == 1 << 31
    monkeypatch.setattr(compression, "available_memory", lambda: 1 << 31)
    assert read(path) == ONE
    monkeypatch.setattr(compression, "available_memory", lambda: 1 << 30)
    with pytest.raises(ValueError, match=r"a window of 2048 MiB \(zstd --long\), and 1024 MiB of memory are free"):
        read(path)


def test_a_control_groups_limit_counts_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "CGROUP_MEMORY", tmp_path)
    machine = compression.available_memory()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert compression.available_memory() > machine // 2
    (tmp_path / "memory.max").write_text("5000\n")
    assert compression.available_memory() == 4000


def test_capital_letters_in_a_suffix_are_the_same_suffix(tmp_path: Path) -> None:
    for suffix, compress in COMPRESS.items():
        assert read(archive(tmp_path, suffix.upper(), compress(ONE))) == ONE


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (b"PAR1x", "a Parquet file"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\x04\x22\x4d\x18x", "compressed by lz4"),
    ],
)
def test_files_of_other_kinds_are_named(content: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"text.txt: is {told}, which is not read as text"):
        read(archive(tmp_path, "", content))


def test_a_pipe_is_read_once_from_its_first_byte(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with open(pipe, "wb", buffering=0) as file:
            for byte in ONE[:30]:
                file.write(bytes([byte]))
            file.write(ONE[30:])

    threading.Thread(target=write).start()
    assert read(pipe) == ONE


def test_frames_that_were_rechunked_are_read_again(mono_file: Path, run: Run, tmp_path: Path) -> None:
    assert run("rechunk", mono_file, "--out", tmp_path / "a", "--frame-bytes", 500)[0] == 0
    framed = tmp_path / "a" / "text.txt.zst"
    with open(framed, "rb", buffering=0) as file:
        assert read_table(file, framed) is not None
    assert read(framed) == mono_file.read_bytes()


def test_a_huge_dictionary_of_xz_is_one_line(mono: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """A small file that declares 1.5 GiB; of a preset's 64 MiB the text is read."""
    path = tmp_path / "a.txt.xz"
    for size in (64 << 20, (1 << 30) + (1 << 29)):
        raw = bytearray(lzma.compress(b"the cat\n" * 99, preset=0))
        # the block's header, behind the stream's 12 bytes: size, flags, filter 0x21, its one byte of properties, padding, CRC
        raw[16] = next(code for code in range(41) if (2 | code & 1) << (code // 2 + 11) == size)
        raw[20:24] = zlib.crc32(raw[12:20]).to_bytes(4, "little")
        path.write_bytes(raw)
        code, _, err = mono(path)
        if size > 64 << 20:
            told = "declares a dictionary that takes more than 512 MiB to read; compress it again with `xz -9` at most"
            assert (code, err.count("error:"), f"{path}: {told}" in err) == (1, 1, True), err
        else:
            assert code == 0, err
