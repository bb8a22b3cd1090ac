"""Runs of `mono` and `parallel`: same input, same bytes; resumed, repeated, filtered and replaced."""

import bz2
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]


def sentences_of(data_dir: Path, tokenizer: Tokenizer) -> list[list[str]]:
    """Every document of a data folder as decoded sentences, in the manifest's order."""
    found = []
    for shard in Manifest.load(data_dir).shards:
        tokens = TokenFile(shard.stem)
        texts = [tokenizer.decode(tokens.read_sequence(i)) for i in range(len(tokens))]
        ends = tokens.documents.tolist()
        found += [texts[start:end] for start, end in pairwise(ends)]
    return found


def test_documents_come_back_as_they_were(
    mono_file: Path, tokenizer: Tokenizer, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    data = tmp_path / "data"
    code, out, _ = run(
        "mono", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", data, "--shard-bytes", 900
    )
    assert code == 0, out
    documents = [text.split("\n") for text in mono_file.read_text().strip().split("\n\n")]
    assert sentences_of(data, tokenizer) == documents
    shards = Manifest.load(data).mono["de"]
    assert len(shards) > 10
    assert sum(shard.documents for shard in shards) == 200


def test_one_two_and_three_workers_give_identical_files(
    mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    folders = []
    for workers in (1, 2, 3):
        folders.append(tmp_path / f"data{workers}")
        options = ("--tokenizer", tokenizer_dir, "--out", folders[-1], "--workers", workers, "--shard-bytes", 2000)
        assert run("mono", mono_file, "--lang", "de", *options)[0] == 0
        assert run("parallel", *pair_files, "--pair", "en-de", *options)[0] == 0
    first = files_under(folders[0])
    assert sum(name.endswith(".bin") for name in first) > 10
    assert files_under(folders[1]) == first
    assert files_under(folders[2]) == first


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".xz", lzma.compress),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_an_archive_gives_the_token_files_of_its_plain_text(
    suffix: str, compress: Callable[[bytes], bytes], mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    archive = tmp_path / f"text.txt{suffix}"
    archive.write_bytes(compress(mono_file.read_bytes()))
    contents = []
    for path in (mono_file, archive):
        data = tmp_path / f"data{path.suffix}"
        assert (
            run("mono", path, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", data, "--shard-bytes", 2000)[0]
            == 0
        )
        contents.append([part.read_bytes() for part in sorted(data.glob("mono/de/*.[bi][id][nx]"))])
    assert len(contents[0]) > 5
    assert contents[0] == contents[1]


def test_the_folder_of_the_input_leaves_no_trace(
    mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / mono_file.name
    copy.write_bytes(mono_file.read_bytes())
    for path, data in ((mono_file, "a"), (copy, "b")):
        assert run("mono", path, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / data)[0] == 0
    assert files_under(tmp_path / "a") == files_under(tmp_path / "b")
    assert not any(str(tmp_path).encode() in content for content in files_under(tmp_path / "a").values())


def test_a_second_run_makes_nothing_and_a_damaged_shard_is_made_again(
    mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    command = ("mono", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    command = (*command, "--shard-bytes", 3000)
    assert run(*command)[0] == 0
    before = files_under(tmp_path / "data")
    assert "0 shards written" in run(*command)[1]
    victim = sorted((tmp_path / "data").rglob("*.bin"))[1]
    victim.write_bytes(victim.read_bytes()[:-4])
    assert "1 shard written" in run(*command)[1]
    assert files_under(tmp_path / "data") == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_nothing_to_read_and_its_repetition_completes_it(
    workers: int, tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files, documents_text: Callable
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(documents_text(3000, 5))
    command = ["mono", text, "--lang", "de", "--tokenizer", tokenizer_dir, "--shard-bytes", 4000, "--workers", workers]
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    process = subprocess.Popen([sys.executable, "-m", "data_prep", *map(str, command), "--out", str(killed)])
    try:
        deadline = time.monotonic() + 60
        while len(list(killed.glob("mono/de/*.json"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    shards_done = len(list(killed.glob("mono/de/*.json")))
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Manifest.load(killed)
    code, out, _ = run(*command, "--out", killed)
    assert code == 0
    assert run(*command, "--out", straight)[0] == 0
    total = len(list(straight.glob("mono/de/*.json")))
    assert 5 <= shards_done < total
    assert " 0 already present" not in out
    assert files_under(killed) == files_under(straight)


def test_an_interrupt_ends_with_130_and_one_line(tokenizer_dir: Path, tmp_path: Path, documents_text: Callable) -> None:
    (tmp_path / "text.txt").write_bytes(documents_text(3000, 5))
    options = ["--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--shard-bytes", 4000]
    command = [sys.executable, "-m", "data_prep", "mono", tmp_path / "text.txt", *options, "--workers", 2]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("data/mono/de/*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; finished shards are kept, run the same command again"
    assert "Traceback" not in err


def test_other_settings_replace_a_sources_shards(
    pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    command = ("parallel", *pair_files, "--pair", "en-de", "--tokenizer", tokenizer_dir)
    assert run(*command, "--out", tmp_path / "both")[0] == 0
    pairs = sum(shard.documents for shard in Manifest.load(tmp_path / "both").pairs["en-de"])
    code, out, _ = run(*command, "--out", tmp_path / "both", "--max-tokens", 9)
    assert (code, "1 outdated removed" in out) == (0, True)
    assert run(*command, "--out", tmp_path / "fresh", "--max-tokens", 9)[0] == 0
    assert files_under(tmp_path / "both") == files_under(tmp_path / "fresh")
    shards = Manifest.load(tmp_path / "both").pairs["en-de"]
    assert 0 < sum(shard.documents for shard in shards) < pairs
    assert max(shard.max_length for shard in shards) <= 9


def test_several_runs_add_to_one_folder_in_any_order(
    mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    runs = [("mono", mono_file, "--lang", "de"), ("mono", pair_files[0], "--lang", "en")]
    runs.append(("parallel", *pair_files, "--pair", "en-de"))
    for folder, order in (("a", runs), ("b", runs[::-1])):
        for command in order:
            assert run(*command, "--tokenizer", tokenizer_dir, "--out", tmp_path / folder)[0] == 0
    manifest = Manifest.load(tmp_path / "a")
    assert (list(manifest.mono), list(manifest.pairs)) == (["de", "en"], ["en-de"])
    assert files_under(tmp_path / "a") == files_under(tmp_path / "b")
    assert manifest.digest() == Manifest.load(tmp_path / "b").digest()


def test_an_incomplete_source_is_not_in_the_manifest(
    mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--shard-bytes", 2000)
    assert run("mono", mono_file, "--lang", "de", *options)[0] == 0
    next((tmp_path / "data" / "mono" / "de").glob("*-00001.json")).unlink()
    assert run("mono", pair_files[0], "--lang", "en", *options)[0] == 0
    assert list(Manifest.load(tmp_path / "data").mono) == ["en"]


def test_dropped_pairs_are_counted_by_reason_in_marker_and_manifest(
    tokenizer_dir: Path, tmp_path: Path, run: Run, tokenizer: Tokenizer
) -> None:
    pairs = [
        ("the cat", "a dog"),
        ("", "a"),
        ("red", "red"),
        ("cat " * 50, "dog " * 50),
        ("the", "big " * 11),
    ]
    pairs += [("\u200b", "a dog"), ("a dog", "the cat")]
    for side, name in enumerate(("x.en", "x.de")):
        (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in pairs))
    options = ("--pair", "en-de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--max-tokens", 40)
    code, out, _ = run("parallel", tmp_path / "x.en", tmp_path / "x.de", *options)
    assert code == 0
    expected = {"empty": 2, "identical": 1, "length_ratio": 1, "too_long": 1}
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == expected
    assert "dropped: empty 2, identical 1, length_ratio 1, too_long 1" in out
    assert sentences_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"], ["a dog", "the cat"]]


def test_a_tsv_file_is_read_by_columns_and_score(
    tokenizer_dir: Path, tmp_path: Path, run: Run, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "wiki.tsv.gz"
    path.write_bytes(gzip.compress(b"1.2\tthe cat\ta dog\n1.01\tbig\tsmall\n1.1\thouse\ttree\n"))
    options = (
        "--tsv",
        "--pair",
        "de-en",
        "--tokenizer",
        tokenizer_dir,
        "--out",
        tmp_path / "data",
        "--min-score",
        1.05,
    )
    assert run("parallel", path, *options)[0] == 0
    assert sentences_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"], ["house", "tree"]]
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {"low_score": 1}


def test_bad_lines_are_set_aside_with_place_reason_and_bytes(
    tokenizer_dir: Path, tmp_path: Path, run: Run, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"the cat\nbad \xff line\na dog\n\nn\x00l\n\nred house\n")
    command = ("mono", path, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert run(*command, "--max-bad-rate", 0.5, "--shard-bytes", 10)[0] == 0
    assert sentences_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"], ["red house"]]
    lines = [line for part in (tmp_path / "data/quarantine").rglob("*.jsonl") for line in part.read_text().splitlines()]
    records = sorted((json.loads(line) for line in lines), key=lambda record: record["line"])
    assert records == [
        {"file": "text.txt", "line": 2, "reason": "invalid_utf8", "raw": "YmFkIP8gbGluZQ=="},
        {"file": "text.txt", "line": 5, "reason": "nul", "raw": "bgBs"},
    ]
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {"invalid_utf8": 1, "nul": 1}


def test_a_shard_that_loses_every_record_is_done_without_a_token_file(
    tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    for name in ("x.en", "x.de"):
        (tmp_path / name).write_text("same\nsame\n")
    command = ("parallel", tmp_path / "x.en", tmp_path / "x.de", "--pair", "en-de", "--tokenizer", tokenizer_dir)
    assert run(*command, "--out", tmp_path / "data")[0] == 0
    assert not list((tmp_path / "data").rglob("*.bin"))
    assert Manifest.load(tmp_path / "data").shards == []
    assert "0 shards written, 1 already present" in run(*command, "--out", tmp_path / "data")[1]


def test_a_bad_file_among_several_fails_alone(mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "broken.txt.xz").write_bytes(lzma.compress(mono_file.read_bytes())[:-9])
    command = ("mono", tmp_path / "broken.txt.xz", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir)
    code, out, err = run(*command, "--out", tmp_path / "data")
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        f"error: {tmp_path / 'broken.txt.xz'}: truncated archive, its end is missing; fetch or write it again"
    ]
    assert "1 shard written" in out
    assert len(Manifest.load(tmp_path / "data").mono["de"]) == 1
