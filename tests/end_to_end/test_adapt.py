"""`adapt` as a user types it: from two files to a model, stopped and gone on with, and once more when all is done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.checkpoints import checkpoint
from pipeline.weights.opening import open_weights
from tests.end_to_end.conftest import REPOSITORY, Finished, Running

STEPS = 300
COMMAND = ["adapt", "model", "text.en", "text.de", "--out", "out", "--gold", "gold", "--steps", STEPS]


@pytest.fixture(scope="module")
def folder(corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's: two files, gold, and a tiny model."""
    root, out = corpus.config.parent, tmp_path_factory.mktemp("adapt")
    for language, end in (("qaa", "en"), ("qab", "de")):
        text = (root / "sample" / "parallel" / f"train.qaa-qab.{language}").read_text(encoding="utf-8")
        (out / f"text.{end}").write_text("".join(text.splitlines(keepends=True)[:60]), encoding="utf-8")
    shutil.copytree(root / "sample" / "gold" / "qaa-qab", out / "gold" / "qaa-qab")
    sizes = XLMRobertaConfig(
        vocab_size=Tokenizer.load(root / "tokenizer").vocab_size, num_hidden_layers=2, hidden_size=32,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=514, type_vocab_size=1,
    )  # fmt: skip
    XLMRobertaForMaskedLM(sizes).save_pretrained(out / "model")
    shutil.copy(root / "tokenizer" / "sentencepiece.bpe.model", out / "model")
    return out


def start(folder: Path, *words: object) -> Running:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *map(str, words)],
            stdout=output, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    return Running(process, log, port=0)


def run(folder: Path, *words: object) -> Finished:
    return start(folder, *words).wait()


def trained_steps(folder: Path) -> list[int]:
    lines = (folder / "out" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["step"] for line in map(json.loads, lines) if line["kind"] == "train"]


def test_stopped_gone_on_with_and_done_once(folder: Path) -> None:
    metrics = folder / "out" / "run" / "metrics.jsonl"
    running = start(folder, *COMMAND)
    try:
        running.wait_for(lambda: metrics.exists() and '"train"' in metrics.read_text())
        os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
        assert running.process.wait(60) == 128 + signal.SIGINT, running.log.read_text()
    finally:
        running.kill()
    assert list(checkpoint.folder_of(folder / "out" / "run").glob(f"step_*/{checkpoint.MANIFEST}"))
    assert "Traceback" not in running.log.read_text()

    done = run(folder, *COMMAND)
    assert done.code == 0 and "continues from" in done.output, done.output
    assert trained_steps(folder)[-1] == STEPS
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    options = open_weights(folder / "out" / "model").record.options
    assert options is not None and (options.method, options.encoding) == (summary["after"]["method"], "separate")
    assert options.layer == summary["after"]["layer"] and "every other gold pair" in options.why
    aer = 100 * summary["after"]["aer"]["avg"][options.layer]
    assert f"{aer:.2f}" in done.output and (folder / "out" / "alignment.png").stat().st_size > 1000

    before = trained_steps(folder)
    again = run(folder, *COMMAND)
    assert again.code == 0 and trained_steps(folder) == before
    assert json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8")) == summary


def test_another_request_in_the_same_folder_is_one_line(folder: Path) -> None:
    done = run(folder, *COMMAND[:-1], 5)
    assert done.code == 1 and f"out: was begun with steps {STEPS}, not 5" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["adapt", "model", "text.en", "short.de", "--out", "x"], "short.de"),
        (["adapt", "model", "text.en", "nosuch.de", "--out", "x"], "nosuch.de"),
        (["adapt", "nosuch/", "text.en", "text.de", "--out", "x"], "nosuch"),
        (["adapt", "model", "text.en", "text.de", "--out", "text.en"], "text.en"),
    ],
)
def test_mistakes_are_told_without_a_traceback(folder: Path, words: list[str], told: str) -> None:
    (folder / "short.de").write_text("one line\n", encoding="utf-8")
    shutil.rmtree(folder / "x", ignore_errors=True)
    done = run(folder, *words)
    assert done.code == 1 and "Traceback" not in done.output
    assert any("error" in line and told in line for line in done.output.splitlines()), done.output


def test_given_links_are_what_is_learned(folder: Path) -> None:
    for end in ("en", "de"):
        (folder / f"few.{end}").write_text("ba be\ndo du\nba du\n" if end == "en" else "do du\nba be\nbe ba\n")
    (folder / "few.pharaoh").write_text("0-0 1-1\n\n0-1\n", encoding="utf-8")
    words = ["adapt", "model", "few.en", "few.de", "--steps", 2, "--links"]
    done = run(folder, *words, "few.pharaoh", "--out", "few")
    assert done.code == 0, done.output
    config = yaml.safe_load((folder / "few" / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert config["objectives"]["token_contrast"]["labels"] == "links"
    lines = (folder / "few" / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in map(json.loads, lines) if line["kind"] == "train")
    assert line["token_contrast_links_per_pair"] > 0 and line["token_contrast_loss"] > 0
    (folder / "few.pharaoh").write_text("0-0 1-1\n\n0-2\n", encoding="utf-8")
    refused = run(folder, *words, "few.pharaoh", "--out", "other")
    assert refused.code == 1 and "few.pharaoh:3: 0-2 links word 2 of the target, which has 2" in refused.output


def test_one_pair_and_no_gold_will_do(folder: Path) -> None:
    (folder / "one.en").write_text("ba be\n", encoding="utf-8")
    (folder / "one.de").write_text("do du\n", encoding="utf-8")
    done = run(folder, "adapt", "model", "one.en", "one.de", "--out", "one", "--steps", 2)
    assert done.code == 0, done.output
    assert "the two directions agree" in done.output and "agreement is no error rate" in done.output
    assert (folder / "one" / "model" / "config.json").exists() and (folder / "one" / "alignment.png").exists()
