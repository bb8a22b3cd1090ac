"""A tiny model and files of a few lines; the command runs in this process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from data_prep.tokenizers.tokenizer import train
from tests.pipeline.conftest import TEXT, Done, use

__all__ = ["Done", "use"]

WORDS = sorted({word for line in TEXT for word in line.split() if word.isalpha() and word.isascii()})
LONGEST = 128
"""Tokens that the tiny model takes."""
QUICK = ["--lr", "2e-3", "--batch", "8", "--dropout", "0", "--device", "cpu"]
"""Settings with which it learns in seconds."""


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a bare tiny encoder whose tokenizer is a SentencePiece file alone."""
    out = tmp_path_factory.mktemp("finetune")
    tokenizer = train(TEXT, 50, 1.0, 4096)
    torch.manual_seed(7)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LONGEST + 2,
        type_vocab_size=1,
        initializer_range=0.1,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(out)
    (out / "sentencepiece.bpe.model").write_bytes(tokenizer.model)
    return out


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a file into the test's folder."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="\n")
        return path

    return write_file


def sentences(count: int, seed: int, longest: int = 6) -> list[list[str]]:
    """Seeded sentences of the words that the tiny tokenizer was trained on."""
    draw = random.Random(seed)
    return [draw.choices(WORDS, k=draw.randint(1, longest)) for _ in range(count)]


def tag_of(word: str) -> str:
    """A tag that the word alone decides."""
    return "EARLY" if word[0] <= "j" else "LATE"


def conll(rows: list[list[str]], tag: Callable[[str], str] | None = tag_of) -> str:
    """Sentences in columns, without tags where `tag` is None."""
    return "\n".join("".join(f"{w}\t{tag(w)}\n" if tag else f"{w}\n" for w in words) for words in rows)
