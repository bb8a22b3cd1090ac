"""What a command prints is the same at a terminal as without one: to a file, to a pipe, and on the screen itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.cli import main as data_prep
from data_prep.standard_output import data_console
from tests.conftest import ROOT
from tests.pipeline.watch.test_report import train_line
from tests.terminal import at_terminal, plainly

PIPELINE, DATA_PREP = [sys.executable, "-m", "pipeline"], [sys.executable, "-m", "data_prep"]
ZERO = ROOT / "ds_configs" / "zero1_fp16.json"
CONFIG = [ROOT / "pipeline" / "configs" / "mlm.yaml", "data.path=nowhere", f"deepspeed={ZERO}"]
PAIR = ["text.en", "text.de"]
COMMANDS: dict[str, list[object]] = {
    "align": [*PIPELINE, "align", "hf", *PAIR, "--layer", 2],
    "align --words": [*PIPELINE, "align", "hf", *PAIR, "--layer", 2, "--words", "--scores"],
    "evaluate": [*PIPELINE, "evaluate", "hf", "--gold", "en-de", "--retrieval", "text.de"],
    "mine": [*PIPELINE, "mine", "hf", "en-de/test.en", "en-de/test.de", "--layer", 2],
    "show": [*PIPELINE, "show", "hf", "the [fox]", "der :fox: fuchs", "--out", "a [b].html"],
    "dry-run": [*PIPELINE, "dry-run", *CONFIG],
    "dry-run --json": [*PIPELINE, "dry-run", *CONFIG, "--json"],
    "plan": [*PIPELINE, "plan", *CONFIG, "--json", "plan.json"],
    "report": [*PIPELINE, "report", "run"],
    "tokenizer train": [*DATA_PREP, "tokenizer", "train", "sample/mono/qaa.txt", "--vocab-size", 90, "--out", "t"],
    "tokenizer import": [*DATA_PREP, "tokenizer", "import", "tokenizer/sentencepiece.bpe.model", "--out", "t"],
    "mono": [*DATA_PREP, "mono", "sample/mono/qab.txt", "--lang", "qab", "--tokenizer", "tokenizer", "--out", "d"],
    "parallel": [
        *DATA_PREP, "parallel", "sample/parallel/train.qaa-qab.qaa", "sample/parallel/train.qaa-qab.qab",
        "--pair", "qaa-qab", "--tokenizer", "tokenizer", "--out", "d",
    ],
    "dry run of mono": [
        *DATA_PREP, "mono", "sample/mono/qab.txt", "--lang", "qab", "--tokenizer", "tokenizer", "--out", "d", "--dry-run"
    ],
    "inspect": [*DATA_PREP, "inspect", "data", "--samples", 2],
    "inspect --json": [*DATA_PREP, "inspect", "data", "--json"],
    "verify": [*DATA_PREP, "verify", "data"],
    "sample": [*DATA_PREP, "sample", "--out", "s"],
    "rechunk": [*DATA_PREP, "rechunk", "sample/mono/qaa.txt", "--out", "framed"],
    "merge": [*DATA_PREP, "merge", "data", "--out", "d"],
    "export-fairseq": [*DATA_PREP, "export-fairseq", "data", "--out", "f"],
}  # fmt: skip
BARS = {
    "align",
    "align --words",
    "evaluate",
    "mine",
    "tokenizer train",
    "mono",
    "dry run of mono",
    "parallel",
    "rechunk",
    "merge",
    "export-fairseq",
}
"""Commands that draw a bar at a terminal, which is what data on its way has to be kept apart from."""
ONCE = {"align --words", "evaluate", "mine", "show", "report"}
"""Commands that take seconds to start, and write to a pipe by what `align` does: to a file and to the screen alone."""


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, hf_dir: Path) -> Path:
    """A folder with everything that the commands read."""
    root = tmp_path_factory.mktemp("things")
    mono = root / "sample" / "mono" / "qaa.txt"
    for words in (
        ["sample", "--out", root / "sample"],
        ["tokenizer", "train", mono, "--vocab-size", 90, "--out", root / "tokenizer"],
        ["mono", mono, "--lang", "qaa", "--tokenizer", root / "tokenizer", "--out", root / "data"],
    ):
        assert data_prep([str(word) for word in words]) == 0
    (root / "hf").symlink_to(hf_dir)
    (root / "text.en").write_text("the quick brown fox\n\nmy box\n" * 400, encoding="utf-8")
    (root / "text.de").write_text("der schnelle fuchs\nhund\nden hund\n" * 400, encoding="utf-8")
    (root / "en-de").mkdir()
    (root / "en-de" / "test.en").write_text("the quick fox\nmy box\n", encoding="utf-8")
    (root / "en-de" / "test.de").write_text("der schnelle fuchs\nden hund\n", encoding="utf-8")
    (root / "en-de" / "alignv2.txt").write_text("1 1 1\n1 2 2 P\n2 1 1\n", encoding="utf-8")
    (root / "run").mkdir()
    (root / "run" / "metrics.jsonl").write_text(f"{json.dumps(train_line(1))}\n", encoding="utf-8")
    return root


@pytest.fixture
def place(things: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A folder of its own for a command, with everything in it, so that its paths read the same each time."""

    def make(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(things, folder, symlinks=True)
        return folder

    return make


@pytest.mark.parametrize("name", COMMANDS)
def test_output_is_byte_for_byte_as_without_a_terminal(name: str, place: Callable[[str], Path]) -> None:
    expected, _ = plainly(COMMANDS[name], place("plain"))
    assert expected.strip(), "the command prints something"
    for output in ["file"] if name in ONCE else ["file", "pipe"]:
        typed = at_terminal(COMMANDS[name], place(output), output)  # type: ignore[arg-type]
        assert (typed.code, typed.out) == (0, expected)
        assert ("\x1b[?25l" in typed.screen) == (name in BARS), "a bar hides the cursor"
    typed = at_terminal(COMMANDS[name], place("screen"), "terminal")
    shown = iter(typed.lines)
    missing = [
        line for line in expected.decode().splitlines() if line.rstrip() not in (seen.rstrip() for seen in shown)
    ]
    assert typed.code == 0 and not missing, "every line stands on the screen, whole and in order"


def test_brackets_and_colons_of_names_and_words_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    data_console().print("[red]a[/red] :smile: [b]")
    assert capsys.readouterr().out == "[red]a[/red] :smile: [b]\n"
