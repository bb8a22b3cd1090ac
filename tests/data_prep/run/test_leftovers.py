"""What killed and failed commands were writing is gone after the failure, or when the command runs again."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import files
from data_prep.files import remove_abandoned, temporary_name, write_durably

Run = Callable[..., tuple[int, str, str]]
NO_PROCESS = 2**22 + 1  # more than the largest process id


def killed(path: Path) -> Path:
    """What a process that is no more has left of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = path.with_name(f".{path.name}.{NO_PROCESS}.tmp")
    left.write_bytes(b"half")
    return left


def test_what_a_dead_process_wrote_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    dead, other = killed(tmp_path / "a*.txt"), killed(tmp_path / "a.txt.txt")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        living = tmp_path / f".a*.txt.{process.pid}.tmp"
        living.touch()
        remove_abandoned(tmp_path / "a*.txt")
        assert (dead.exists(), living.exists(), other.exists()) == (False, True, True)
        process.communicate(b"\n")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_durably(tmp_path / "a", b"content")
    assert not list(tmp_path.iterdir())
    assert not temporary_name(tmp_path / "a").exists()


def test_commands_clear_what_they_left_when_they_were_killed(mono_file: Path, tmp_path: Path, run: Run) -> None:
    left = [killed(tmp_path / "framed" / "text.txt.zst"), killed(tmp_path / "tokenizer" / "sentencepiece.bpe.model")]
    assert run("rechunk", mono_file, "--out", tmp_path / "framed")[0] == 0
    assert run("tokenizer", "train", mono_file, "--vocab-size", 48, "--out", tmp_path / "tokenizer")[0] == 0
    data = tmp_path / "data"
    tokenizer = ("--tokenizer", tmp_path / "tokenizer", "--out", data)
    assert run("mono", mono_file, "--lang", "de", *tokenizer)[0] == 0
    left += [killed(tmp_path / "fairseq" / "mono" / f"train.0.{suffix}") for suffix in ("bin", "idx")]
    left.append(killed(tmp_path / "fairseq" / "mono" / "dict.txt"))
    left.append(killed(tmp_path / "a.png"))
    assert run("export-fairseq", data, "--out", tmp_path / "fairseq")[0] == 0
    assert run("inspect", data, "--picture", tmp_path / "a.png")[0] == 0
    assert [path.name for path in left if path.exists()] == []
