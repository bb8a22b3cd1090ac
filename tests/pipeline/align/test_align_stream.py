"""`align` as part of something larger: fed by and by, read by and by, stopped half-way; in processes of its own."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.commands import progress
from pipeline.commands.progress import Counted
from tests.conftest import ROOT
from tests.pipeline.conftest import Done

Use = Callable[..., Done]
PATIENCE = 120
PAIR = "the quick fox ||| der schnelle fuchs\n"


@pytest.fixture
def start(hf_dir: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `align` on the tiny model with its standard streams as pipes."""
    started: list[subprocess.Popen[str]] = []

    def run(*words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipeline", "align", str(hf_dir), *map(str, words)]
        pipe = subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    """So many lines of output; fails where they do not come."""
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stdout.readline() for _ in range(count)), daemon=True)  # type: ignore[union-attr]
    reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive(), "the links did not come though their pairs were there"
    return lines


def test_a_coprocess_gets_the_links_of_what_it_has_written_while_it_keeps_the_pipe_open(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start("-")
    assert process.stdin is not None
    for written in (5, 1, 70):
        process.stdin.write(PAIR * written)
        process.stdin.flush()
        lines = lines_of(process, written)
        assert len(set(lines)) == 1 and re.fullmatch(r"\d+-\d+( \d+-\d+)*\n", lines[0])
    rest, errors = process.communicate(timeout=PATIENCE)
    assert (rest, process.returncode) == ("", 0) and "76 pairs aligned" in errors


def test_ctrl_c_keeps_the_links_that_were_done_even_while_input_is_waited_for(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    process = start("-", "--split", "split.txt")
    assert process.stdin is not None
    process.stdin.write(PAIR * 3)
    process.stdin.flush()
    assert len(lines_of(process, 3)) == 3
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE)
    assert process.returncode == 130 and process.stderr is not None
    errors = process.stderr.read()
    assert "3 pairs aligned" in errors and errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors


def test_the_first_links_of_a_large_file_come_before_it_is_read(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "large.txt").write_text(PAIR * 200_000)
    process = start("large.txt")
    assert len(lines_of(process, 3)) == 3
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # as `head -3` does
    process.wait(PATIENCE)
    errors = process.stderr.read()
    aligned = int(re.search(r"^([\d,]+) pairs aligned", errors, re.M)[1].replace(",", ""))  # type: ignore[index]
    assert aligned < 100_000 and process.returncode == 128 + signal.SIGPIPE and "rror" not in errors


def test_only_links_are_on_standard_output_and_only_our_own_lines_beside_them(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    out, errors = start("-", "--device", "cpu").communicate(PAIR * 2, timeout=PATIENCE)
    assert len(out.splitlines()) == 2
    told = [line for line in errors.splitlines() if not line.startswith("aligning: ")]  # where it took ten seconds
    assert told[0].startswith("note: aligning by layer 2, argmax, separate (")
    assert told[1:] == ["2 pairs aligned: layer 2, argmax, separate, on the CPU"]


def test_pipes_of_the_shell_and_compressed_files_are_read(hf_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"the fox\n\n"))
    (tmp_path / "b").write_text("der fuchs\nhund\n")
    align = f"{shlex.quote(sys.executable)} -m pipeline align {hf_dir}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def shell(command: str) -> str:
        words = ["bash", "-c", command]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    links = shell(f"{align} a.gz b")
    assert len(links.splitlines()) == 2 and links != "\n\n"
    assert shell(f"{align} <(zcat a.gz) b") == links
    assert shell(f"zcat a.gz | {align} - b") == shell(f"{align} /dev/stdin b < <(zcat a.gz)") == links


def test_bad_lines_within_the_rate_have_an_empty_line_and_are_told(use: Use, hf_dir: Path) -> None:
    text = PAIR.encode() + b"no sides\n\xff ||| x\n" + PAIR.encode() * 7
    done = use("align", hf_dir, "-", "--max-bad-rate", "0.2", stdin=text)
    lines = done.out.split("\n")
    assert done.code == 0 and len(lines) == 11 and lines[1] == lines[2] == "" and lines[0] == lines[3] != ""
    told = done.err.splitlines()[-1]
    assert "2 lines could not be used and so without links, the first: stdin:2: no '|||'" in told
    assert "empty side" not in told
    done = use("align", hf_dir, "-", "--max-bad-rate", "0.1", stdin=text)
    assert done.code == 1 and len(done.out.split("\n")) == 11 and "2 of 10 lines cannot be used" in done.error


def test_text_that_looks_untokenised_is_told_once_and_with_raw_not_at_all(use: Use, hf_dir: Path) -> None:
    text = b"Hello, my friend. ||| Hallo, mein Freund.\n" * 100
    (told,) = [
        line for line in use("align", hf_dir, "-", stdin=text).err.splitlines() if line.startswith("note: the text")
    ]
    assert told.endswith("give --raw to split words and punctuation apart")
    assert "note: the text" not in use("align", hf_dir, "-", "--raw", stdin=text).err


def test_split_keeps_the_pairs_before_a_mistake_and_is_no_input(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    pairs, split = tmp_path / "pairs.txt", tmp_path / "split.txt"
    pairs.write_text(f"{PAIR}no sides\n")
    done = use("align", hf_dir, pairs, "--split", split)
    assert done.code == 1 and len(done.out.splitlines()) == 1 and split.read_text() == PAIR
    done = use("align", hf_dir, pairs, "--split", pairs)
    assert done.code == 1 and "is an input too" in done.error and pairs.read_text() == f"{PAIR}no sides\n"


def test_a_byte_order_mark_and_format_characters_change_no_link(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    plain, marked = (
        "the quick fox ||| der schnelle fuchs\n",
        "\ufeffthe qui\u00adck \u202bfox ||| \ufeffder schnelle fuchs\u202c\n",
    )
    for raw in ([], ["--raw"]):
        split = tmp_path / "split.txt"
        assert use("align", hf_dir, "-", *raw, "--split", split, stdin=marked.encode()).out == (
            use("align", hf_dir, "-", *raw, stdin=plain.encode()).out
        )
        assert split.read_text(encoding="utf-8") == marked.removeprefix("\ufeff")


def test_without_a_terminal_a_line_now_and_then_tells_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Counted("aligning", "pairs") as counted:
        for now, count in ((4, 400), (11, 1100), (12, 1200), (22, 2000), (40, 100)):
            counted.show(count, count / 10_000 if now < 20 else None)
    assert capsys.readouterr().err.splitlines() == [
        "aligning: 1,100 pairs, 100 pairs/s, 1:29 left",
        "aligning: 2,000 pairs, 91 pairs/s",
        "aligning: 100 pairs, 2.5 pairs/s",
    ]
    assert progress.LINE_SECONDS == 10
