"""Training that begins with a model of the hub: fetched once for all ranks, and its commit in what the run records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from data_prep.tokenizers.tokenizer import Tokenizer
from tests.loopback_hub import LoopbackHub, serving

pytestmark = pytest.mark.launch
NAME = "lab/start"


@pytest.fixture
def hub(corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub with a tiny model of the corpus's tokenizer, which started processes find."""
    model = tmp_path / "model"
    sizes = XLMRobertaConfig(
        vocab_size=Tokenizer.load(corpus.data / "tokenizer").vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
        type_vocab_size=1,
    )
    XLMRobertaForMaskedLM(sizes).save_pretrained(model)
    shutil.copyfile(corpus.data / "tokenizer" / "sentencepiece.bpe.model", model / "sentencepiece.bpe.model")
    with serving() as hub:
        hub.add(NAME, model)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        yield hub


def test_ranks_begin_with_one_commit_which_the_run_records(
    corpus: Any, launcher: Any, hub: LoopbackHub, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = launcher.train(2, corpus.config, f"model.init={NAME}@main", f"run.out={run}", "run.steps=2")
    assert done.code == 0, done.output
    pinned = f"{NAME}@{hub.models[NAME].refs['main']}"
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]["init"] == pinned
    (manifest,) = run.glob("checkpoints/step_00000002/manifest.json")
    assert json.loads(manifest.read_text(encoding="utf-8"))["config"]["model"]["init"] == pinned
    fetched = [line for line in hub.asked if line.startswith("GET") and "/api/" not in line]
    assert len(fetched) == len(set(fetched)), "every file once, however many ranks"
    assert done.output.count(f"note: {NAME}@main: commit ") == 1
