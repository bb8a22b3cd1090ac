"""Several data folders become one that is what one run over everything would have made."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import train

Run = Callable[..., tuple[int, str, str]]
NO_PROCESS = 2**22 + 1  # more than the largest process id
Files = Callable[[Path], dict[str, bytes]]


def without_locks(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if not name.startswith("locks/")}


@pytest.fixture
def folders(
    mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run
) -> tuple[Path, Path, Path]:
    """`a` with mono text and a bad line, `b` with the same text and pairs, `both` with everything in one folder."""
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"the cat\nbad \xff line\na dog\n")
    options = ("--tokenizer", tokenizer_dir, "--shard-bytes", 4000, "--max-bad-rate", 0.5)
    text = ("mono", mono_file, "--lang", "de", *options)
    other = ("mono", bad, "--lang", "en", *options)
    pairs = ("parallel", *pair_files, "--pair", "en-de", *options)
    for name, commands in {"a": (text, other), "b": (text, pairs), "both": (text, other, pairs)}.items():
        for command in commands:
            assert run(*command, "--out", tmp_path / name)[0] == 0
    return tmp_path / "a", tmp_path / "b", tmp_path / "both"


@pytest.mark.parametrize("link", [(), ("--link",)])
@pytest.mark.parametrize("order", [1, -1])
def test_the_merged_folder_is_that_of_one_run_over_everything(
    link: tuple[str, ...], order: int, folders: tuple[Path, Path, Path], tmp_path: Path, run: Run, files_under: Files
) -> None:
    code, out, _ = run("merge", *folders[:2][::order], "--out", tmp_path / "merged", *link)
    assert (code, "sources found more than once: 1" in out) == (0, True)
    merged = files_under(tmp_path / "merged")
    assert without_locks(merged) == without_locks(files_under(folders[2]))
    assert run("verify", tmp_path / "merged")[0] == 0
    binary = next(name for name in merged if name.endswith(".bin"))
    assert (os.stat(tmp_path / "merged" / binary).st_nlink > 1) == bool(link)
    again = run("merge", *folders[:2], "--out", tmp_path / "merged", *link)[1]
    assert "merged: 0 shards copied" in again
    assert files_under(tmp_path / "merged") == merged


def test_a_merge_adds_to_what_the_folder_has(folders: tuple[Path, Path, Path], run: Run, files_under: Files) -> None:
    a, b, both = folders
    assert run("merge", b, "--out", a)[0] == 0
    assert without_locks(files_under(a)) == without_locks(files_under(both))


def test_the_same_text_under_another_name_is_one_source(
    folders: tuple[Path, Path, Path], mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    copy = mono_file.with_name("a_copy.txt")
    copy.write_bytes(mono_file.read_bytes())
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "c", "--shard-bytes", 4000)
    assert run("mono", copy, *options)[0] == 0
    for name, given in {"x": (folders[0], tmp_path / "c"), "y": (tmp_path / "c", folders[0])}.items():
        out = run("merge", *given, "--out", tmp_path / name)[1]
        assert "more than once: 1" in out
        manifest = Manifest.load(tmp_path / name)
        assert sum(shard.documents for shard in manifest.mono["de"]) == 200
    assert Manifest.load(tmp_path / "x").digest() == Manifest.load(tmp_path / "y").digest()
    assert run("merge", tmp_path / "c", "--out", folders[0])[0] == 0
    assert sum(shard.documents for shard in Manifest.load(folders[0]).mono["de"]) == 200


def test_a_merge_that_was_killed_is_continued(
    folders: tuple[Path, Path, Path], tmp_path: Path, run: Run, files_under: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    out, left = tmp_path / "merged", [7]
    real = os.replace

    def dying(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KilledError):
            run("merge", *folders[:2], "--out", out)
    with pytest.raises(ValueError, match=r"manifest\.json: no such file"):
        Manifest.load(out)
    written = next(out.rglob("*.bin"))
    written.with_name(f".{written.name}.{NO_PROCESS}.tmp").write_bytes(b"what SIGKILL leaves")
    assert run("merge", *folders[:2], "--out", out)[0] == 0
    assert without_locks(files_under(out)) == without_locks(files_under(folders[2]))


@pytest.mark.parametrize("writes", range(3))
def test_a_merge_killed_while_it_takes_over_the_tokenizer_is_repeated(
    writes: int, folders: tuple[Path, Path, Path], tmp_path: Path, run: Run, files_under: Files
) -> None:
    """As after SIGKILL with so many of the tokenizer's files there or half written."""
    own = tmp_path / "merged" / "tokenizer"
    own.mkdir(parents=True)
    whole = folders[0] / "tokenizer"
    model, meta = sorted(path.name for path in whole.iterdir())
    (own / f".{model}.{NO_PROCESS}.tmp").write_bytes(b"half")
    if writes:
        shutil.copy(whole / model, own / model)
    if writes > 1:
        (own / f".{meta}.{NO_PROCESS}.tmp").write_bytes(b"{")
    assert run("merge", *folders[:2], "--out", tmp_path / "merged")[0] == 0
    assert without_locks(files_under(tmp_path / "merged")) == without_locks(files_under(folders[2]))


@pytest.mark.parametrize("link", [(), ("--link",)])
def test_a_merge_that_fails_leaves_no_temporary_files(
    link: tuple[str, ...], folders: tuple[Path, Path, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.replace, [6]

    def full(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert run("merge", *folders[:2], "--out", tmp_path / "merged", *link)[0] == 1
    assert not list((tmp_path / "merged").rglob("*.tmp"))


def refused(result: tuple[int, str, str], *parts: str) -> None:
    errors = [line for line in result[2].splitlines() if not line.startswith("merging:")]
    assert (result[0], len(errors)) == (1, 1), result
    assert all(part in errors[0] for part in parts), errors


def test_what_cannot_be_merged_is_refused(
    folders: tuple[Path, Path, Path], mono_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    a, b, _ = folders
    merged = ("--out", tmp_path / "merged")
    refused(run("merge", a, tmp_path / "none", *merged), "none/manifest.json: no such file")
    refused(run("merge", a, b, "--out", a), "is one of the folders to merge")

    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "c")
    assert run("mono", mono_file, *options)[0] == 0
    refused(run("merge", a, tmp_path / "c", *merged), "the same source as", "with other settings")

    train([f"other words {number}" for number in range(99)], 24, 1.0, 4192).save(tmp_path / "tokenizer2")
    options = ("--lang", "de", "--tokenizer", tmp_path / "tokenizer2", "--out", tmp_path / "d")
    assert run("mono", mono_file, *options)[0] == 0
    refused(run("merge", a, tmp_path / "d", *merged), "merge folders of one tokenizer")
    assert not (tmp_path / "merged").exists()

    next(a.rglob("*-00000.json")).unlink()
    refused(run("merge", a, b, *merged), "its manifest is not what its shards' markers say")


def test_a_damaged_shard_is_not_copied(folders: tuple[Path, Path, Path], tmp_path: Path, run: Run) -> None:
    victim = next(folders[0].rglob("*.bin"))
    content = bytearray(victim.read_bytes())
    content[5] ^= 1
    victim.write_bytes(content)
    shutil.rmtree(folders[1])
    refused(run("merge", folders[0], "--out", tmp_path / "merged"), victim.name, "sha256")
    assert not (tmp_path / "merged" / "manifest.json").exists()
    assert not list((tmp_path / "merged").rglob("*.tmp"))
