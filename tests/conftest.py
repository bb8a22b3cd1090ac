"""Fixtures that all rooms share: the real corpora, and what they may be used for."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real corpora beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder ../shared with real corpora is not here")
    return folder


@pytest.fixture(scope="session")
def xlmr_model(shared_dir: Path) -> Path:
    """XLM-R's SentencePiece model."""
    return shared_dir / "data" / "xlmr_tokenizer" / "sentencepiece.bpe.model"
