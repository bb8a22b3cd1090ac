"""At a terminal, into a file and into a pipe: the same data on standard output, and nothing cut in a narrow window."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def at_terminal(*arguments: object, columns: int = 80, into: Path | None = None) -> tuple[int, bytes]:
    """Run a command of data_prep at a pseudo-terminal: exit code, and what the terminal shows.

    Args:
        into: file to which standard output goes instead.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    shown: list[bytes] = []

    def read() -> None:
        try:
            while block := os.read(master, 1 << 16):
                shown.append(block)
        except OSError:
            pass  # what a terminal without a program gives

    with open(into, "wb") if into else os.fdopen(os.dup(slave), "wb") as out:
        process = subprocess.Popen(
            command, stdin=slave, stdout=out, stderr=slave, env={**environment, "TERM": "xterm"}, close_fds=True
        )
    os.close(slave)
    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(timeout=120)
    reader.join()
    os.close(master)
    return code, b"".join(shown)


@pytest.fixture
def commands(
    mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path
) -> dict[str, tuple[object, ...]]:
    out = tmp_path / "out"
    fixed = ("--tokenizer", tokenizer_dir, "--out", out)
    return {
        "rechunk": ("rechunk", mono_file, "--out", out),
        "mono": ("mono", mono_file, "--lang", "de", *fixed),
        "dry run": ("mono", mono_file, "--lang", "de", *fixed, "--dry-run"),
        "parallel": ("parallel", *pair_files, "--pair", "en-de", *fixed),
        "tokenizer train": ("tokenizer", "train", mono_file, "--vocab-size", 46, "--out", out),
        "sample": ("sample", "--out", out),
    }


@pytest.mark.parametrize("name", ["rechunk", "mono", "dry run", "parallel", "tokenizer train", "sample"])
def test_data_in_a_file_is_the_same_with_a_terminal_beside_it(
    name: str, commands: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    plain = subprocess.run(
        [sys.executable, "-m", "data_prep", *map(str, commands[name])], capture_output=True, check=True
    ).stdout
    assert plain
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    code, _ = at_terminal(*commands[name], into=tmp_path / "stdout")
    assert code == 0
    assert (tmp_path / "stdout").read_bytes() == plain
    if name in ("rechunk", "mono"):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        code, shown = at_terminal(*commands[name])
        assert code == 0
        assert plain.strip() in ESCAPES.sub(b"", shown).replace(b"\r\n", b"\n")


@pytest.fixture
def data_dir(run: Run, tokenizer_dir: Path, tmp_path: Path) -> Path:
    """Pairs of languages whose names begin alike, in files of long names, with something dropped of each."""
    for target in ("cs", "de", "es", "fr"):
        name = tmp_path / f"a-file-with-a-rather-long-name-in-two-languages.{target}"
        (tmp_path / "x.en").write_text(f"the cat {target}\nsame\n")
        name.write_text("a dog\nsame\n")
        command = ("parallel", tmp_path / "x.en", name, "--pair", f"en-{target}", "--tokenizer", tokenizer_dir)
        assert run(*command, "--out", tmp_path / "data")[0] == 0
    return tmp_path / "data"


@pytest.mark.parametrize("columns", [30, 60, 200])
def test_tables_are_whole_in_a_window_of_any_width(columns: int, data_dir: Path) -> None:
    code, shown = at_terminal("inspect", data_dir, columns=columns)
    text = ESCAPES.sub(b"", shown).decode()
    assert code == 0
    for word in ("en-cs", "en-de", "en-es", "en-fr", "identical", "longest", "shards", "lines"):
        assert word in text
    assert "…" not in text


def test_tables_are_whole_in_a_file(data_dir: Path, run: Run) -> None:
    _, out, _ = run("inspect", data_dir)
    for target in ("cs", "de", "es", "fr"):
        assert f"x.en + a-file-with-a-rather-long-name-in-two-languages.{target}" in out
    assert "…" not in out


def test_a_reader_that_has_gone_ends_a_command_without_a_word(data_dir: Path) -> None:
    command = f"{sys.executable} -m data_prep inspect {data_dir} --json; echo $? >&2"
    reading = subprocess.Popen(["bash", "-c", f"({command}) | true"], stderr=subprocess.PIPE, text=True)
    _, err = reading.communicate(timeout=60)
    assert err == "141\n"


def test_without_a_command_the_commands_are_listed(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    for command in (
        "mono",
        "parallel",
        "mix",
        "tokenizer",
        "inspect",
        "verify",
        "remove",
        "merge",
        "rechunk",
        "sample",
    ):
        assert f"\n  {command} " in err
    code, out, err = run("tokenizer")
    assert (code, out, "\n  train " in err and "\n  import " in err) == (2, "", True)
