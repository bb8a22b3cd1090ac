"""Standard output holds what a command was asked for and nothing else, whoever prints beside it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from data_prep import standard_output
from data_prep.files import check_output, output_file, output_place
from tests.conftest import ROOT

NOISY = """
import ctypes, logging, os, sys
from rich.console import Console
from rich.progress import Progress
from data_prep.standard_output import claimed, put
print("before")
with claimed():
    handler = logging.StreamHandler(stream=sys.stdout)
    print("python")
    os.system("echo child")
    os.write(1, b"descriptor\\n")
    ctypes.CDLL(None).puts(b"C")
    ctypes.CDLL(None).fflush(None)
    handler.emit(logging.LogRecord("x", 20, "x", 1, "logger", (), None))
    with claimed(), Progress(console=Console(stderr=True, force_terminal=True)):
        put("data", "é")
        print("beside a bar")
print("after")
"""


def test_only_what_is_put_is_on_standard_output() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISY], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert done.stdout.decode() == "before\ndata é\nafter\n"
    for noise in (b"python", b"child", b"descriptor", b"C", b"logger", b"beside a bar"):
        assert noise in done.stderr


def test_a_file_name_that_is_not_utf_8_is_printed_by_its_bytes(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from data_prep.standard_output import claimed, data_console, put
        with claimed():
            put(sys.argv[1])
            data_console().print(sys.argv[1])
    """
    done = subprocess.run([sys.executable, "-c", code, b"caf\xe9.txt"], capture_output=True, check=True)
    assert done.stdout == 2 * b"caf\xe9.txt\n"


def test_a_file_is_there_when_it_is_whole_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.txt"

    def interrupted() -> None:
        with output_file(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(path.parent.iterdir())
    with output_file(path) as file:
        file.write("whole\n")
        assert not path.exists()
    assert path.read_bytes() == b"whole\n"
    assert [child.name for child in path.parent.iterdir()] == ["out.txt"]


def test_what_another_writes_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    (tmp_path / ".picture.png.999999999.tmp").write_bytes(b"of a killed one")

    def interrupted() -> None:
        with output_place(path) as place:
            place.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with output_place(path) as place:
        place.write_bytes(b"whole")
    assert path.read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_an_input_is_never_an_output(tmp_path: Path) -> None:
    given, link, hard = tmp_path / "in.txt", tmp_path / "link", tmp_path / "hard"
    given.write_text("text\n")
    link.symlink_to(given)
    hard.hardlink_to(given)
    for name in (given, link, hard, tmp_path / "x" / ".." / "in.txt"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="is an input too and would be overwritten"), output_file(name, [given]):
            pass
    assert given.read_text() == "text\n"


def test_a_place_that_cannot_be_written_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a folder; give the file to write"):
        check_output(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be made \(Not a directory\)"):
        check_output(tmp_path / "file" / "x" / "y.json")


def test_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        with output_file(pipe) as file:
            file.write("through\n")
        assert reader.communicate(timeout=60)[0] == "through\n"
    assert pipe.is_fifo()


class Terminal(io.StringIO):
    """What is printed at a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_is_whole_on_a_terminal_that_is_too_narrow_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr(standard_output, "data_stream", lambda: shown)
    monkeypatch.setenv("COLUMNS", "30")
    drawn = Table("arm", *"abcdef")
    drawn.add_row("a-name-that-is-longer-than-others", *["41.92±5.22"] * 6)
    standard_output.print_table(drawn)
    assert "a-name-that-is-longer-than-others" in shown.getvalue() and shown.getvalue().count("41.92±5.22") == 6


def test_every_table_alone_is_printed_whole() -> None:
    """`data_console` is for what is more than a table, as the dry run's, whose words wrap."""
    paths = [path for folder in ("pipeline", "data_prep") for path in (ROOT / folder).rglob("*.py")]
    found = [
        path.name for path in paths if re.search(r"data_console\(\d*\)\.print\(", path.read_text(encoding="utf-8"))
    ]
    assert found == ["estimate.py"]
