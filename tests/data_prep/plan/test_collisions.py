"""Two sources whose short hashes, which are part of their shards' names, are equal: none takes the other's place."""

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from data_prep.plan.source_plan import ShardSettings
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.marker import NAME_HASH, source_identity

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]
NAME = "corpus.txt"


@pytest.fixture(scope="module")
def texts() -> tuple[bytes, bytes]:
    """Two texts that as files of one name have one short hash: as many are tried as it takes by chance, some 80,000."""
    seen: dict[str, bytes] = {}
    number = 0
    while True:
        text = b"the cat sees\n" * (number % 7 + 1) + b"%d\n" % number
        short = source_identity("mono", ["de"], [(NAME, sha256(text).hexdigest())])[:NAME_HASH]
        if short in seen:
            return seen[short], text
        seen[short] = text
        number += 1


@pytest.fixture
def paths(texts: tuple[bytes, bytes], tmp_path: Path) -> tuple[Path, Path]:
    for folder, text in zip("ab", texts, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / NAME).write_bytes(text)
    return tmp_path / "a" / NAME, tmp_path / "b" / NAME


def refused(result: tuple[int, str, str]) -> None:
    code, _, err = result
    errors = [line for line in err.splitlines() if "error: " in line]
    assert (code, len(errors), "short hash" in errors[0]) == (1, 1, True), err


def test_in_one_run_both_are_told_apart(paths: tuple[Path, Path], mono: Run, tmp_path: Path) -> None:
    refused(mono(*paths, "--add"))
    assert not (tmp_path / "data" / "manifest.json").exists()


@pytest.mark.parametrize("choice", [(), ("--add",), ("--replace",)])
def test_a_later_run_does_not_replace_the_earlier_source(
    choice: tuple[str, ...], paths: tuple[Path, Path], mono: Run, tmp_path: Path, files_under: Files
) -> None:
    assert mono(paths[0])[0] == 0
    before = files_under(tmp_path / "data")
    refused(mono(paths[1], *choice))
    refused(mono(paths[1], *choice, "--dry-run"))
    assert files_under(tmp_path / "data") == before
    other = paths[1].with_name("another_name.txt")
    paths[1].rename(other)
    assert mono(other)[0] == 0
    assert len(Manifest.load(tmp_path / "data").sources) == 2


def test_a_merge_drops_none_of_them(paths: tuple[Path, Path], run: Run, tokenizer_dir: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for path, folder in zip(paths, folders, strict=True):
        assert run("mono", path, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", folder)[0] == 0
    refused(run("merge", *folders, "--out", tmp_path / "merged", "--add"))
    assert not (tmp_path / "merged" / "manifest.json").exists()


def test_shards_of_two_sources_are_never_one_source(mono_file: Path, mono: Run, tmp_path: Path) -> None:
    """As runs on both that were killed might leave them: one shard of each."""
    assert mono(mono_file, "--shard-bytes", 4000)[0] == 0
    first, *_ = sorted((tmp_path / "data" / "mono" / "de").glob("*.json"))
    marker = json.loads(first.read_bytes())
    del marker["marker_sha256"]  # as an earlier version wrote it
    marker["source"]["files"][0]["sha256"] = "0" * 64
    first.write_text(json.dumps(marker))
    (tmp_path / "other.txt").write_bytes(b"a dog\n")
    assert mono(tmp_path / "other.txt")[0] == 0
    assert [source["files"][0]["name"] for source in Manifest.load(tmp_path / "data").sources] == ["other.txt"]


def test_settings_of_one_short_hash_are_told_apart(
    mono_file: Path, mono: Run, tmp_path: Path, files_under: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mono(mono_file)[0] == 0
    before = files_under(tmp_path / "data")
    short = ShardSettings.sha256.fget(replace(ShardSettings(), shard_bytes=1))[:NAME_HASH]  # type: ignore[attr-defined]
    (marker,) = (tmp_path / "data" / "mono" / "de").glob("*.json")
    real = json.loads(marker.read_bytes())["settings_sha256"][:NAME_HASH]
    full = ShardSettings.sha256.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(
        ShardSettings, "sha256", property(lambda own: full(own).replace(full(own)[:NAME_HASH], real, 1))
    )
    assert short != real
    code, _, err = mono(mono_file, "--shard-bytes", 999)
    assert (code, "was made with other settings, whose short hash is the same" in err) == (1, True), err
    assert files_under(tmp_path / "data") == before
