"""The commands of docs/generation.md do what the page says, and every option of `generate` stands there."""

from __future__ import annotations

import doctest
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipeline.conftest import Done
from tests.pipeline.generation_kit import LINES, module, save, tokenizer_with_tags, written

Use = Callable[..., Done]
TEXT = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line)[3:] for line in TEXT.splitlines() if line.startswith("python -m pipeline ")]
SMALLER = ["--device", "cpu", "--epochs", "1", "--max-length", "30", "--beam", "1"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A folder with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    for folder in ("hf", "squad", "pairs"):
        (tmp_path / folder).mkdir()
    Path("text.en").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    Path("reference.de").write_text("".join(f"{written(line, 'de')}\n" for line in LINES), encoding="utf-8")
    (tmp_path / "hf" / "writer").symlink_to(request.getfixturevalue("target_dir"))
    return tmp_path


def test_the_commands_that_write_and_score(workspace: Path, use: Use) -> None:
    for words in COMMANDS:
        if words[0] == "finetune":
            continue
        command, out = (words[: words.index(">")], words[-1]) if ">" in words else (words, None)
        done = use(*command, *(["--device", "cpu"] if command[0] == "generate" else []))
        assert done.code == 0, done.err
        if out is not None:
            Path(out).write_text(done.out, encoding="utf-8")
    expected = Path("reference.de").read_text(encoding="utf-8")
    assert Path("text.de").read_text(encoding="utf-8") == Path("greedy.de").read_text(encoding="utf-8") == expected
    assert len(Path("text.nbest").read_text(encoding="utf-8").splitlines()) == 3 * len(LINES)
    lines = [json.loads(line) for line in Path("text.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [f"{each['hypotheses'][0]['text']}\n" for each in lines] == expected.splitlines(keepends=True)


def test_the_commands_that_fine_tune(workspace: Path, use: Use) -> None:
    tokenizer = tokenizer_with_tags(("de", "en", "zh"))
    folder = save(workspace / "trilingual", module(len(tokenizer), layers=10), tokenizer, "target", ("de", "en", "zh"))
    (workspace / "hf" / "writer").unlink()
    (workspace / "hf" / "writer").symlink_to(folder)
    rows = [(line, written(line, "de")) for line in LINES]
    for words in COMMANDS:
        for name in re.findall(r"=(\S+)", " ".join(words)):
            objects = [json.dumps({"source": source, "target": target}) for source, target in rows]
            lines = objects if name.endswith(".jsonl") else ["\t".join(row) for row in rows]
            Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if words[0] != "finetune":
            continue
        done = use(*words, *SMALLER)
        assert done.code == 0, done.err
        assert (Path(words[words.index("--out") + 1]) / "model" / "model.safetensors").is_file()


def test_the_example_in_python(workspace: Path) -> None:
    failed, tried = doctest.testfile(str(ROOT / "docs" / "generation.md"), module_relative=False)
    assert tried == 3 and not failed


def test_every_option_stands_on_the_page(use: Use) -> None:
    offered = set(re.findall(r"--[a-z][a-z0-9-]+", use("generate", "--help").out)) - {"--help", "--verbose"}
    assert offered <= set(re.findall(r"--[a-z][a-z0-9-]+", TEXT))
