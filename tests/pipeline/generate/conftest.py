"""Folders of tiny models that have learned a dozen lines by heart."""

from pathlib import Path

import pytest

from tests.pipeline.conftest import Done, use
from tests.pipeline.generation_kit import module, save, teach, tokenizer_with_tags

__all__ = ["Done", "use"]


def _folder(tag: str, out: Path) -> Path:
    tokenizer = tokenizer_with_tags()
    model = module(len(tokenizer))
    teach(model, tokenizer, tag)
    return save(out, model, tokenizer, tag)


@pytest.fixture(scope="session")
def target_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is told the language by what its decoder begins with."""
    return _folder("target", tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is told the language by its source's first word."""
    return _folder("source", tmp_path_factory.mktemp("source"))
