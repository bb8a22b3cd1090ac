"""What goes wrong around a run: odd characters, sources that change, disks that are full or read-only, runs side by side.

Wrong files and options by themselves are in `test_command_errors`, wrong records in `test_sources`.
"""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import data_prep.run.job
from data_prep.text.blocks import BLOCK_BYTES, MAX_HELD_BYTES
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]


def test_unicode_line_ends_and_carriage_returns_break_no_line_and_no_pair(
    tokenizer_dir: Path, tokenizer: Tokenizer, tmp_path: Path, run: Run
) -> None:
    sides = ["the\u2028cat\r\nbig\u0085red\n\ufefftree\n", "a\u2029dog\nsmall\rold\r\nbird\n"]
    for name, text in zip(("x.en", "x.de"), sides, strict=True):
        (tmp_path / name).write_bytes(("\ufeff" + text).encode())
    files = (tmp_path / "x.en", tmp_path / "x.de")
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert run("parallel", *files, "--pair", "en-de", *options)[0] == 0
    (shard,) = Manifest.load(tmp_path / "data").shards
    tokens = TokenFile(shard.stem)
    assert (shard.documents, shard.sequences) == (3, 6)
    lines = [side.split("\n")[:-1] for side in sides]
    wanted = [[tokenizer.decode(tokenizer.encode(line)) for line in side] for side in lines]
    kept = [tokenizer.decode(tokens.read_sequence(i)) for i in range(6)]
    assert [kept[0::2], kept[1::2]] == wanted
    assert kept[:2] == ["the cat", "a dog"]


@pytest.mark.parametrize(("raw", "reason"), [(b"a\xed\xa0\x80b", "invalid_utf8"), (b"a\xc0\x80b", "invalid_utf8")])
def test_surrogates_and_overlong_forms_are_refused_or_set_aside(
    raw: bytes, reason: str, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "text").write_bytes(b"the cat\n" + raw + b"\n")
    command = ("mono", tmp_path / "text", "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    code, _, err = run(*command)
    assert (code, err.count("error:")) == (1, 1)
    assert f"text:2: {reason}" in err
    assert run(*command, "--max-bad-rate", 0.5)[0] == 0
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {reason: 1}


@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_a_line_of_50_megabytes_is_refused_or_set_aside(
    name: str, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    size = 50_000_000
    text = b"the cat\n" + b"a" * size + b"\na dog\n"
    (tmp_path / name).write_bytes(gzip.compress(text, 1) if name.endswith(".gz") else text)
    data_dir = tmp_path / "data"
    command = ("mono", tmp_path / name, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", data_dir)
    code, _, err = run(*command)
    assert (code, err.count("error:")) == (1, 1)
    assert f"{name}:2: long_line" in err and len(err) < 2000
    assert run(*command, "--max-bad-rate", 0.5)[0] == 0
    assert Manifest.load(data_dir).sources[0]["dropped"] == {"long_line": 1}
    (record,) = [json.loads(line) for file in data_dir.glob("quarantine/mono/de/*") for line in file.open()]
    assert (record["line"], record["bytes"]) == (2, size)
    assert len(record["raw"]) < 10_000


def test_a_line_that_cannot_be_held_ends_its_source(tokenizer_dir: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "text").write_bytes(b"the cat\n" + b"a" * (MAX_HELD_BYTES + BLOCK_BYTES + 1) + b"\n")
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--max-bad-rate", 0.5)
    code, _, err = run("mono", tmp_path / "text", *options)
    assert (code, err.count("error:")) == (1, 1)
    assert "text: the line that begins at byte 8 is longer than 64 MiB" in err


@pytest.mark.parametrize("change", ["same size", "cut", "gone"])
def test_a_source_that_changes_between_plan_and_encoding_leaves_nothing_that_is_accepted(
    change: str, mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch,
    files_under: Files,
) -> None:  # fmt: skip
    text = mono_file.read_bytes()
    real = data_prep.run.job.install_tokenizer

    def meddle(*arguments: object) -> None:
        real(*arguments)
        if change == "gone":
            mono_file.unlink()
        else:
            mono_file.write_bytes(text[::-1] if change == "same size" else text[: len(text) // 2])
            os.utime(mono_file, ns=(1, 1))

    command = ("mono", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, "--shard-bytes", 3000, "--out")
    with monkeypatch.context() as patch:
        patch.setattr(data_prep.run.job, "install_tokenizer", meddle)
        code, _, err = run(*command, tmp_path / "data")
    assert (code, err.count("error:")) == (1, 1)
    assert str(mono_file) in err
    assert "No such file" in err if change == "gone" else "changed while it was read; run the command again" in err
    with pytest.raises(ValueError, match=r"manifest\.json: no such file"):
        Manifest.load(tmp_path / "data")
    mono_file.write_bytes(text)
    for out in ("data", "straight"):
        assert run(*command, tmp_path / out)[0] == 0
    assert files_under(tmp_path / "data") == files_under(tmp_path / "straight")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs to be root, with the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.mark.root
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_full_disk_is_one_line_and_with_room_a_repetition_completes_the_run(
    suffix: str,
    small_disk: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    run: Run,
    files_under: Files,
    documents_text: Callable,
) -> None:
    import gzip

    text = documents_text(1500, 1)
    source = tmp_path / f"text{suffix}"
    source.write_bytes(gzip.compress(text) if suffix else text)
    command = ("mono", source, "--lang", "de", "--tokenizer", tokenizer_dir, "--shard-bytes", 20_000, "--out")
    code, _, err = run(*command, small_disk / "data")
    assert (code, err.count("error:")) == (1, 1)
    assert "no space left" in err.lower()
    with pytest.raises(ValueError, match=r"manifest\.json: no such file"):
        Manifest.load(small_disk / "data")
    remount(small_disk, "size=8m")
    assert run(*command, small_disk / "data")[0] == 0
    assert run(*command, tmp_path / "straight")[0] == 0
    assert files_under(small_disk / "data") == files_under(tmp_path / "straight")


@pytest.mark.root
def test_a_read_only_folder_is_one_line(small_disk: Path, mono_file: Path, tokenizer_dir: Path, run: Run) -> None:
    command = ("mono", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", small_disk / "data")
    remount(small_disk, "ro")
    code, _, err = run(*command)
    assert (code, err.count("error:")) == (1, 1)
    assert "Read-only file system" in err
    assert str(small_disk) in err
    remount(small_disk, "rw,size=8m")
    code, _, err = run(*command)
    assert code == 0, err
    remount(small_disk, "ro")
    assert run("verify", small_disk / "data")[0] == 0
    assert run("inspect", small_disk / "data", "--samples", 1)[0] == 0
    assert run(*command, "--dry-run")[0] == 0


def test_two_runs_on_one_folder_at_the_same_time_give_what_one_after_the_other_gives(
    pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files,
    documents_text: Callable,
) -> None:  # fmt: skip
    for name in ("de", "en"):
        (tmp_path / name).write_bytes(documents_text(400, len(name)) + name.encode())
    commands = [["mono", str(tmp_path / name), "--lang", name] for name in ("de", "en")]
    commands.append(["parallel", *map(str, pair_files), "--pair", "en-de"])
    fixed = ["--tokenizer", str(tokenizer_dir), "--shard-bytes", "3000", "--out"]
    start = [sys.executable, "-m", "data_prep"]
    together = [subprocess.Popen([*start, *command, *fixed, str(tmp_path / "together")]) for command in commands]
    assert [process.wait(timeout=120) for process in together] == [0, 0, 0]
    for command in commands:
        assert run(*command, *fixed, tmp_path / "apart")[0] == 0
    assert files_under(tmp_path / "together") == files_under(tmp_path / "apart")


def test_two_runs_on_one_source_at_the_same_time_make_it_once(
    mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    command = [
        "mono",
        str(mono_file),
        "--lang",
        "de",
        "--tokenizer",
        str(tokenizer_dir),
        "--shard-bytes",
        "2000",
        "--out",
    ]
    start = [sys.executable, "-m", "data_prep", *command, str(tmp_path / "data")]
    both = [subprocess.Popen(start, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert 0 in [code for _, code in ends]
    assert all(code == 0 or "held by another run on the same source" in err for err, code in ends)
    assert run(*command, tmp_path / "straight")[0] == 0
    assert files_under(tmp_path / "data") == files_under(tmp_path / "straight")


@pytest.mark.shared
def test_the_original_tmx_of_tico19_gives_its_sentences(
    shared_dir: Path, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    path = shared_dir / "data" / "tico19" / "tmx" / "all.en-fr.tmx"
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--max-tokens", 100_000, "--max-ratio", 1000)
    assert run("parallel", path, "--pair", "en-fr", *options)[0] == 0
    (source,) = Manifest.load(tmp_path / "data").sources
    documents = sum(shard.documents for shard in Manifest.load(tmp_path / "data").shards)
    assert source["lines"] == 3071
    assert documents + sum(source["dropped"].values()) == 3071
    assert set(source["dropped"]) <= {"identical", "empty"}
