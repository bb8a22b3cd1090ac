"""`inspect` tells what is there, `verify` finds every kind of damage and names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.data_dir.verify import marker_problems
from data_prep.files import sha256_of_file
from data_prep.token_files.manifest import Manifest, rebuild
from data_prep.token_files.marker import CHECKSUM, write_marker
from data_prep.token_files.token_file import TokenFile

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]
SHARD_BYTES = 4000


@pytest.fixture
def data_dir(mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run) -> Path:
    """A folder with several shards of de and of en-de."""
    data = tmp_path / "data"
    options = ("--tokenizer", tokenizer_dir, "--out", data, "--shard-bytes", SHARD_BYTES)
    assert run("mono", mono_file, "--lang", "de", *options)[0] == 0
    assert run("parallel", *pair_files, "--pair", "en-de", *options, "--max-tokens", 20)[0] == 0
    return data


def test_inspect_sums_what_the_shards_hold(data_dir: Path, run: Run) -> None:
    code, out, _ = run("inspect", data_dir, "--json")
    content = json.loads(out)
    manifest = Manifest.load(data_dir)
    mono, pair = content["rows"]
    assert code == 0
    assert content["digest"] == manifest.digest()
    assert (mono["key"], mono["documents"], mono["dropped"]) == ("de", 200, {})
    assert pair["documents"] + sum(pair["dropped"].values()) == 300
    assert pair["tokens"] == sum(len(TokenFile(shard.stem).tokens) for shard in manifest.pairs["en-de"])
    assert pair["shards"] == len(manifest.pairs["en-de"]) > 1


def test_inspect_shows_a_table(data_dir: Path, run: Run) -> None:
    code, out, _ = run("inspect", data_dir)
    assert code == 0
    for word in ("documents", "tokens", "en-de", "too_long"):
        assert word in out


def test_verify_passes_a_whole_folder(data_dir: Path, run: Run) -> None:
    code, out, err = run("verify", data_dir)
    assert (code, err) == (0, "")
    assert out.endswith("shards, all as written\n")


def test_a_moved_folder_is_still_whole(data_dir: Path, run: Run, tmp_path: Path) -> None:
    digest = Manifest.load(data_dir).digest()
    shutil.move(data_dir, tmp_path / "moved")
    assert run("verify", tmp_path / "moved")[0] == 0
    assert Manifest.load(tmp_path / "moved").digest() == digest


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("pattern", ["mono/de/*-00000.bin", "mono/de/*-00000.idx", "pair/en-de/*-00001.bin"])
def test_verify_names_a_shard_file_with_one_flipped_bit(pattern: str, data_dir: Path, run: Run) -> None:
    (path,) = data_dir.glob(pattern)
    flip(path)
    code, _, err = run("verify", data_dir)
    assert code == 1
    assert err.splitlines() == [
        f"error: {path}: content is not what was written (sha256); run again the mono or parallel command that made it"
    ]


@pytest.mark.parametrize("change", ["cut", "gone"])
def test_readers_refuse_a_cut_off_or_missing_shard_and_verify_names_each(change: str, data_dir: Path, run: Run) -> None:
    paths = sorted(data_dir.rglob("*.bin"))[:2]
    for path in paths:
        if change == "cut":
            path.write_bytes(path.read_bytes()[:-4])
        else:
            path.unlink()
    with pytest.raises(ValueError, match=r"\.bin: "):
        Manifest.load(data_dir)
    code, _, err = run("inspect", data_dir)
    assert (code, len(err.splitlines())) == (1, 1)
    code, _, err = run("verify", data_dir)
    assert code == 1
    assert [str(path) in line for path, line in zip(paths, err.splitlines(), strict=True)] == [True, True]


def test_verify_finds_ids_out_of_range_even_when_the_hashes_agree(data_dir: Path, run: Run) -> None:
    path = min(data_dir.glob("mono/de/*.bin"))
    ids = np.fromfile(path, dtype="<i4")
    ids[7] = 1
    ids.tofile(path)
    marker = json.loads(path.with_suffix(".json").read_text())
    marker["files"]["bin"]["sha256"] = sha256_of_file(path)
    del marker[CHECKSUM]
    write_marker(path.with_suffix(".json"), marker)
    rebuild(data_dir)
    code, _, err = run("verify", data_dir)
    assert code == 1
    assert f"{path}: ids from 1 to" in err


def test_verify_finds_every_flipped_bit_of_a_marker(data_dir: Path) -> None:
    """One of each hundred here; `tests/tools/flip_data.py` tries all."""
    path = min(data_dir.glob("mono/de/*.json"))
    whole = path.read_bytes()
    assert not list(marker_problems(path))
    for bit in range(0, 8 * len(whole), 101):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        (told,) = marker_problems(path)
        assert told.startswith(f"{path}: ") and "\n" not in told, bit


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", None])
def test_a_damaged_marker_is_named_and_its_shard_is_made_again(
    content: bytes | None, data_dir: Path, mono_file: Path, mono: Run, run: Run, files_under: Files
) -> None:
    expected = files_under(data_dir)
    path = min(data_dir.glob("mono/de/*.json"))
    damaged = path.read_bytes().replace(b'"start": 0', b'"start": 8') if content is None else content
    path.write_bytes(damaged)
    code, _, err = run("verify", data_dir)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert f"error: {path}: " in err and "run again the mono or parallel command that made it" in err
    assert mono(mono_file, "--shard-bytes", SHARD_BYTES)[0] == 0
    assert files_under(data_dir) == expected


def test_verify_finds_another_tokenizer_and_a_stale_manifest(data_dir: Path, run: Run) -> None:
    flip(data_dir / "tokenizer" / "sentencepiece.bpe.model")
    assert run("verify", data_dir)[0] == 1
    flip(data_dir / "tokenizer" / "sentencepiece.bpe.model")
    min(data_dir.glob("mono/de/*.json")).unlink()
    code, _, err = run("verify", data_dir)
    assert code == 1
    assert "manifest.json: not what the shards' markers say" in err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": 9}'])
def test_a_damaged_manifest_is_one_line(content: str, data_dir: Path, run: Run) -> None:
    (data_dir / "manifest.json").write_text(content)
    for command in ("inspect", "verify"):
        code, _, err = run(command, data_dir)
        assert (code, len(err.splitlines())) == (1, 1)
        assert "manifest.json" in err


def test_a_count_that_cannot_be_is_one_line(data_dir: Path) -> None:
    path = data_dir / "manifest.json"
    whole = path.read_bytes()
    for name in ("documents", "sequences", "tokens", "max_length", "blocks"):
        for count in (0, -7, 2**63, "3", None, 1.5):
            content = json.loads(whole)
            content["shards"][0]["counts"][name] = count
            path.write_text(json.dumps(content))
            with pytest.raises(ValueError, match=rf"^{path}: damaged, [^\n]*run again the mono or parallel command"):
                Manifest.load(data_dir)


def test_the_same_markers_give_the_same_manifest(data_dir: Path) -> None:
    before = (data_dir / "manifest.json").read_bytes()
    (data_dir / "manifest.json").unlink()
    rebuild(data_dir)
    assert (data_dir / "manifest.json").read_bytes() == before
