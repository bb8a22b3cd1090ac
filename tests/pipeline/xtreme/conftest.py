"""The miniature of XTREME, and a tiny model that takes all of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from data_prep.tokenizers.tokenizer import train
from pipeline.xtreme.sample import write_sample
from tests.pipeline.conftest import Done, use

__all__ = ["Done", "use"]

ITEMS = 12


@pytest.fixture(scope="session")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All nine tasks, of few items."""
    out = tmp_path_factory.mktemp("xtreme") / "download"
    write_sample(out, ITEMS)
    return out


@pytest.fixture(scope="session")
def model_dir(download: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a bare tiny encoder, whose tokenizer knows the miniature's signs."""
    out = tmp_path_factory.mktemp("model")
    text = [
        line.replace("\t", " ")
        for path in sorted(download.glob("tatoeba/*-en.*"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    tokenizer = train(text, 120, 0.99, 4096)
    torch.manual_seed(7)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=514,
        type_vocab_size=1,
        initializer_range=0.1,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(out)
    (out / "sentencepiece.bpe.model").write_bytes(tokenizer.model)
    return out
