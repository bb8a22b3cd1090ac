"""The commands of docs/aligner.md run as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.use.aligner import Aligner
from tests.conftest import ROOT
from tests.pipeline.conftest import Done

TEXT = (ROOT / "docs" / "aligner.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if " -m pipeline " in line]
# `demo` serves until it is stopped, and has tests of its own; `valid` is made by data_prep.
NOT_RUN = [line for line in COMMANDS if " demo " in line or "--perplexity" in line]


@pytest.fixture
def workspace(hf_dir: Path, tmp_path: Path, gold_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page names."""
    for name in ("en-cs", "en-de"):
        folder = tmp_path / "gold" / name
        folder.mkdir(parents=True)
        for path in gold_dir.iterdir():
            (folder / path.name.replace("test.de", f"test.{name[3:]}")).write_bytes(path.read_bytes())
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "base").symlink_to(hf_dir)
    (tmp_path / "pud").mkdir()
    for language, side in (("en", "source"), ("de", "target")):
        text = f"{side} fox\n\nmy box\n"
        (tmp_path / f"text.{language}").write_text(text, encoding="utf-8")
        (tmp_path / "pud" / f"pud.{language}").write_text(text, encoding="utf-8")
    (tmp_path / "pairs.txt").write_text("source fox ||| target fox\n\nmy box ||| my box\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_all_its_commands() -> None:
    assert len(COMMANDS) == 8 and len(NOT_RUN) == 2


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in NOT_RUN])
def test_command_of_the_page(workspace: Path, use: Callable[..., Done], command: str) -> None:
    stdin = (workspace / "pairs.txt").read_bytes() if command.startswith("cat ") else b""
    words = shlex.split(command.partition(" > ")[0].rpartition("python -m pipeline ")[2])
    words = ["3" if word == "8" and words[at - 1] == "--layer" else word for at, word in enumerate(words)]
    done = use(*words, stdin=stdin)
    assert done.code == 0, done.err
    if words[0] == "align":
        assert len(done.out.splitlines()) == 3


def test_the_three_lines_of_python(workspace: Path) -> None:
    (code,) = [block for block in BLOCKS if block.startswith("from ")]
    assert len(code.splitlines()) == 3 and code in (ROOT / "README.md").read_text(encoding="utf-8")
    *lines, last = code.replace("layer=8", "layer=3").splitlines()
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    assert isinstance(names["aligner"], Aligner)
    (links,) = eval(last, names)
    assert links and all(0 <= i < 2 and 0 <= j < 2 for i, j in links)


def test_every_option_of_the_page_exists(use: Callable[..., Done]) -> None:
    helps = "".join(use(command, "--help").out for command in ("align", "evaluate", "show", "demo"))
    for option in set(re.findall(r"`(--[a-z-]+)", TEXT)) - {"--peers", "--threads"}:
        assert option in helps, option
