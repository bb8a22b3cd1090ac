"""The commands and options of docs/finetuning.md are those of the command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from glob import glob
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pipeline.finetune.conftest import QUICK, Done, conll, sentences, tag_of
from tests.pipeline.finetune.test_classification import pairs
from tests.pipeline.finetune.test_question_answering import squad

TEXT = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
COMMANDS = [line for line in TEXT.splitlines() if line.startswith("python -m pipeline finetune ")]
(PREDICT,) = [line for line in TEXT.splitlines() if line.startswith("python -m pipeline predict ")]


@pytest.fixture
def workspace(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    for folder in ("hf", "xnli", "panx", "squad", "xquad", "pud/pos", "dicts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "hf" / "base").symlink_to(model_dir)
    for language in ("de", "fr"):
        Path(f"dicts/en-{language}.txt").write_text("fox fuchs\nbox\tkiste\n", encoding="utf-8")
    for name in ("train-en", "dev-en", "test-en", "test-de"):
        Path(f"xnli/{name}.tsv").write_text(pairs(8, 1), encoding="utf-8")
        Path(f"panx/{name}.tsv").write_text(conll(sentences(8, 1), lambda word: f"B-{tag_of(word)}"), encoding="utf-8")
    for file in ("squad/train-v1.1.json", "xquad/xquad.de.json", "xquad/xquad.tr.json"):
        Path(file).write_text(squad(4, 1, 8), encoding="utf-8")
    for language in ("en", "de"):
        lines = (" ".join(f"{word}/{tag_of(word)}" for word in words) for words in sentences(1000, 1, longest=2))
        Path(f"pud/pos/pud.{language}.upos").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_page(workspace: Path, use: Callable[..., Done], command: str) -> None:
    words = shlex.split(command)[3:]
    words = [word for each in words for word in (sorted(glob(each)) if "*" in each else [each])]
    smaller = [
        *QUICK,
        "--batch",
        "64",
        "--epochs",
        "1",
        "--max-length",
        "100",
        *(["--stride", "16"] if "qa" in words else []),
    ]
    done = use(*words, *smaller)
    assert done.code == 0, done.err
    out = words[words.index("--out") + 1]
    assert Path(out, "results.json").is_file() and list(Path(out).glob("**/predictions/*/test-de.*"))
    if Path(out, "model") == Path(PREDICT.split()[4]):
        Path("news.txt").write_text("the fox, my box\n", encoding="utf-8")
        predicted = use(*PREDICT.partition(" > ")[0].split()[3:], "--device", "cpu")
        assert [line.partition("\t")[0] for line in predicted.out.splitlines()] == ["the", "fox", ",", "my", "box"]


def test_every_option_stands_on_the_page_with_its_default(use: Callable[..., Done]) -> None:
    assert len(COMMANDS) == 5
    named = set(re.findall(r"--[a-z][a-z0-9-]+", TEXT)) - {"--prediction-folder", "--prediction"}
    offered = set(re.findall(r"--[a-z][a-z0-9-]+", use("finetune", "--help").out)) - {
        "--help",
        "--local-dir",  # of `hf download`, which the help tells of
        "--tokenizer",
        "--verbose",
    }
    assert named - {"--raw"} == offered, "--raw is of predict"
